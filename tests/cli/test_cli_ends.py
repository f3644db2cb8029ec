"""How commands end: by a signal, and with a closed stream."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from ordito.cli import end
from ordito.train.stops import Stops

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and closed streams as Unix has them")

WRITING = """
import sys, time
from pathlib import Path
from ordito import cli
from ordito.files import write_atomically

def slowly():
    try:
        yield b"half of a model"
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(0.2)

cli.main = lambda: write_atomically(Path(sys.argv[1], "x.gguf"), slowly())
cli.program()
"""


@contextmanager
def writing(folder):
    """A process in the middle of writing a file, which has to end silently and to leave no file."""
    with subprocess.Popen([sys.executable, "-c", WRITING, folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        assert len(list(folder.iterdir())) == 1
        yield process
        assert process.communicate(timeout=20)[1] == b""
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_no_partial_file_is_left(tmp_path, number, status):
    with writing(tmp_path) as process:
        process.send_signal(number)
    assert process.returncode == status


def test_a_second_signal_does_not_interrupt_the_cleanup(tmp_path):
    with writing(tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == b"ending\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 129


def test_simultaneous_signals_end_silently(tmp_path):
    with writing(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    assert process.returncode == 129


def test_what_nohup_ignores_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child inherits it
    try:
        with writing(tmp_path) as process:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert process.returncode == 143


def test_a_run_whose_terminal_is_closed_saves_first(tmp_path):
    stops = Stops(tmp_path, None)
    with stops.listening():
        end(signal.SIGHUP, None)
    assert stops.reason() == "it was asked to by SIGHUP"


@pytest.mark.parametrize(
    ("closed", "arguments", "status", "out", "err"),
    [
        ("2>&-", ("draw", "gpt2"), 0, True, False),
        ("2>&-", ("draw", "nosuch"), 1, False, False),
        ("2>&-", ("rnu",), 2, False, False),
        (">&-", ("draw", "gpt2"), 0, False, False),
        (">&-", ("draw", "nosuch"), 1, False, True),
        (">&-", ("--help",), 0, False, False),
        ("<&- >&- 2>&-", ("draw", "gpt2"), 0, False, False),
        ("<&-", ("run", "smollm2"), 1, False, True),
    ],
)
def test_a_closed_stream_is_silent(closed, arguments, status, out, err):
    command = ["sh", "-c", f'exec "$0" -m ordito "$@" {closed}', sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=60)
    assert (done.returncode, bool(done.stdout), bool(done.stderr)) == (status, out, err)
    assert "bug" not in done.stderr
