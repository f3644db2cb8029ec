"""A server that is stopped lets answers finish, or ends them with an error, and exits without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serving import free_port, started
from tiny_model import tiny_folder

from ordito.native.runtime import NativeRuntime

HI = [{"role": "user", "content": "the loom"}]
LONG = {"max_tokens": 30_000, "ignore_eos": True}


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model whose answers take longer than any test waits."""
    return tiny_folder(tmp_path_factory.mktemp("endless"), 1 << 15)


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("ordito.serve.listening.GRACE", 0.1)


ASKED = [
    ("/v1/chat/completions", {"messages": HI, **LONG}),
    ("/v1/completions", {"prompt": "the loom", **LONG}),
    ("/v1/responses", {"input": "the loom", "max_output_tokens": 30_000, "ignore_eos": True}),
    ("/v1/messages", {"messages": HI, "max_tokens": 30_000, "logit_bias": {"1": -100}, "stop_sequences": []}),
    ("/api/chat", {"model": "x", "messages": HI, "options": {"num_predict": 30_000}}),
]


@pytest.fixture
def unending(monkeypatch):
    """Answers never end by themselves."""
    monkeypatch.setattr("ordito.model.Model.end_ids", frozenset())


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_stream_ends_with_the_reason(endless, impatient, unending, path, body):
    with started([endless]) as (url, server):
        body = {**body, "stream": True}
        with httpx.stream("POST", url + path, json=body, timeout=60) as response:
            chunks = response.iter_text()
            rest = next(chunks)
            server.should_exit = True
            rest += "".join(chunks)  # ends as a stream does
    last = rest.split("\n\n")[-2] if path != "/api/chat" else rest.splitlines()[-1]
    assert "the server is stopping" in last
    assert "error" in last


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_whole_answer_is_refused_with_retry_after(endless, impatient, unending, path, body):
    with started([endless]) as (url, server):
        threading.Timer(0.5, setattr, [server, "should_exit", True]).start()
        told = httpx.post(url + path, json={**body, "stream": False}, timeout=60)
    assert told.status_code == (529 if "messages" in path else 503)
    assert told.headers["retry-after"]
    assert "stopping" in told.text


def test_embedding_stops_between_two_batches(folder, impatient, monkeypatch):
    hidden, pieces = NativeRuntime.hidden, []

    def slow(self, *arguments):
        server.should_exit = True
        pieces.append(time.sleep(0.3))
        return hidden(self, *arguments)

    monkeypatch.setattr(NativeRuntime, "hidden", slow)
    with started([folder]) as (url, server):
        told = httpx.post(f"{url}/v1/embeddings", json={"input": ["the loom"] * 4096}, timeout=60)
    assert told.status_code == 503
    assert len(pieces) < 20  # of 128


@pytest.mark.parametrize(("signals", "tokens", "status"), [(1, 300, 143), (2, 30_000, 130)])
def test_the_process_ends_without_a_traceback(endless, signals, tokens, status):
    port = free_port()
    command = [sys.executable, "-m", "ordito", "serve", str(endless), "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        while "Ctrl-C" not in (line := process.stderr.readline()):
            assert line, "the server did not start"
        body = {"messages": HI, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60) as response:
            chunks = response.iter_text()
            whole = next(chunks)
            process.send_signal(signal.SIGTERM if signals == 1 else signal.SIGINT)
            if signals == 2:
                assert "stopping" in process.stderr.readline()
                process.send_signal(signal.SIGINT)
            whole += "".join(chunks)
        if signals == 1:
            assert whole.rstrip().endswith("data: [DONE]")
        else:
            assert "the server is stopping" in whole
        _, told = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in told
    assert "Error" not in told
