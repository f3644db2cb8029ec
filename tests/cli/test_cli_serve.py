"""`ordito serve`, `ps` and `stop` as one types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from click.testing import CliRunner
from serving import free_port

from ordito.cli.serve import ps, serve, stop
from ordito.errors import OrditoError


def refused(command, *arguments):
    return str(CliRunner().invoke(command, [str(argument) for argument in arguments]).exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "needs a key"),
        (["--api-key", "short"], "at least 8"),
        (["--cache-memory", "lots"], "expected a size"),
        (["--keep-alive", "soon"], "expected seconds"),
        (["--alias", "x"], "NAME=MODEL"),
        (["nothing-of-that-name"], "nothing-of-that-name"),
        (["--host", "nowhere.invalid", "--api-key", "12345678"], "cannot listen"),
    ],
)
def test_options_that_are_wrong(arguments, message):
    assert message in refused(serve, *arguments)


def test_a_port_in_use_is_named(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert f"cannot listen on 127.0.0.1:{taken.getsockname()[1]}" in refused(
            serve, folder, "--port", taken.getsockname()[1]
        )


@pytest.mark.parametrize(
    ("url", "message"), [("http://127.0.0.1:9", "no server answers"), ("file:///etc/passwd", "expected http")]
)
def test_no_server(url, message):
    assert message in refused(ps, "--url", url)
    assert message in refused(stop, "x", "--url", url)


@pytest.mark.skipif(os.name != "posix", reason="Unix has these signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_serving_from_start_to_stop(folder, number, status):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "ordito", "serve", str(folder), "--port", str(port), "--load"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.1)
            (loaded,) = json.loads(CliRunner().invoke(ps, ["--url", url, "--json"]).output)
            assert loaded["context_length"] == 64
            assert loaded["name"] in CliRunner().invoke(ps, ["--url", url]).output
            assert "no longer loaded" in CliRunner().invoke(stop, [loaded["name"], "--url", url]).output
            assert json.loads(CliRunner().invoke(ps, ["--url", url, "--json"]).output) == []
        finally:
            server.send_signal(number)
            _, told = server.communicate(timeout=20)
    assert server.returncode == status
    assert url in told
    assert "Traceback" not in told
    assert isinstance(CliRunner().invoke(ps, ["--url", url]).exception, OrditoError)
