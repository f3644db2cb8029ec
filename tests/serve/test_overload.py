"""Too many requests, too large ones, and those whose clients leave or wait too long."""

from __future__ import annotations

import concurrent.futures
import json
import socket
import threading
import time

import httpx
import pytest
from serving import running

from ordito.model import Model
from ordito.native.runtime import NativeRuntime

HI = [{"role": "user", "content": "the loom"}]


def test_sizes_are_bounded(folder):
    with running([folder], max_body=8000, max_header=4096) as url, httpx.Client(base_url=url) as client:
        told = client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "w" * 9000}]})
        assert told.status_code == 413

        def endless():
            for _ in range(100):
                yield b" " * 1000

        streamed = client.post("/v1/chat/completions", content=endless(), headers={"content-type": "application/json"})
        assert streamed.status_code == 413
        assert client.get("/health", headers={"x-long": "w" * 10_000}).status_code in (400, 431)


def test_too_many_wait(folder):
    with running([folder], max_waiting=1, most_together=1) as url:

        def ask(_):
            body = {"messages": HI, "max_tokens": 40, "ignore_eos": True}
            return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)

        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(48)))
        statuses = {answer.status_code for answer in answers}
        assert statuses <= {200, 429}
        assert 200 in statuses
        for answer in answers:
            if answer.status_code == 429:
                assert answer.headers["retry-after"]


def test_the_queue_is_bounded_when_many_requests_come_at_once(folder, monkeypatch):
    opened, reached, plain, prepared = threading.Event(), threading.Event(), NativeRuntime.step, Model.prepare

    def held(*arguments):
        reached.set()
        assert opened.wait(30)
        return plain(*arguments)

    def slowly(*arguments, **settings):
        time.sleep(0.1)
        return prepared(*arguments, **settings)

    monkeypatch.setattr(NativeRuntime, "step", held)
    monkeypatch.setattr(Model, "prepare", slowly)
    body = {"messages": HI, "max_tokens": 1}
    with running([folder], max_waiting=2) as url, concurrent.futures.ThreadPoolExecutor(13) as pool:
        try:
            asked = [pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=60)]
            assert reached.wait(30)
            asked += [pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=60) for _ in range(12)]
            coming = concurrent.futures.as_completed(asked, timeout=30)
            refused = [next(coming).result().status_code for _ in range(10)]
        finally:
            opened.set()
        assert refused == [429] * 10
        assert sorted(one.result().status_code for one in asked) == [200] * 3 + [429] * 10


@pytest.mark.parametrize("stream", [True, False])
def test_a_disconnect_frees_its_place_in_the_batch(folder, stream):
    with running([folder]) as url:
        body = json.dumps({"messages": HI, "max_tokens": 55, "ignore_eos": True, "stream": stream, "n": 16}).encode()
        host, port = url.removeprefix("http://").split(":")
        for _ in range(8):
            with socket.create_connection((host, int(port))) as left:
                head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                left.sendall(head.encode() + body)
                if stream:
                    left.recv(10)
        end = time.monotonic() + 20
        while time.monotonic() < end:
            text = httpx.get(f"{url}/metrics").text
            counts = [
                line for line in text.splitlines() if line.startswith(("ordito_requests_running{", "ordito_requests_waiting{"))
            ]
            if counts and all(line.endswith(" 0.0") for line in counts):
                break
            time.sleep(0.05)
        else:
            raise AssertionError(counts)
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": HI, "max_tokens": 2}, timeout=30).status_code == 200


def test_an_answer_that_waits_too_long_is_ended(folder, monkeypatch):
    """Also during prefill, before the first delta."""
    step = NativeRuntime.step

    def slow(self, *arguments):
        time.sleep(0.02)
        return step(self, *arguments)

    with running([folder], request_seconds=0.2) as url, httpx.Client(base_url=url, timeout=60) as client:
        client.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 1})
        monkeypatch.setattr(NativeRuntime, "step", slow)
        monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 1)
        begin = time.monotonic()
        answer = client.post("/v1/completions", json={"prompt": "the loom " * 250, "max_tokens": 5}).json()
        assert time.monotonic() - begin < 3  # of more than 10
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 0
