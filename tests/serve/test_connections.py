"""Slow and silent connections are closed, and the number of connections is limited."""

from __future__ import annotations

import json
import socket
import time
from contextlib import suppress

import httpx
import pytest
from serving import running

SECONDS = 0.3
HEAD = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def address(folder):
    with running([folder], arrival_seconds=SECONDS, max_connections=3) as url:
        host, port = url.removeprefix("http://").split(":")
        yield host, int(port)


@pytest.fixture
def connection(address):
    with socket.create_connection(address, timeout=30) as made:
        yield made


def rest(connection):
    """All bytes that the server sends until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):  # raised if a byte was sent after the server had closed
        while piece := connection.recv(1 << 16):
            received += piece
    return received


def trickle(connection, text):
    """Send single bytes with pauses until there is an answer."""
    connection.settimeout(0.05)
    for byte in text:
        try:
            connection.sendall(bytes([byte]))
            if connection.recv(1, socket.MSG_PEEK):
                return
        except TimeoutError:
            continue
    raise AssertionError("the server read everything without an answer")


def test_a_head_in_single_bytes_is_refused(connection):
    trickle(connection, HEAD + b"x: y\r\n" * 100)
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert "head of the request took longer" in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]


def test_a_body_in_single_bytes_is_refused(connection):
    connection.sendall(HEAD + b"content-length: 1000\r\n\r\n")
    trickle(connection, b" " * 1000)
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert told["type"] == "error"
    assert "body of the request took longer" in told["error"]["message"]


def test_a_silent_connection_is_closed(connection):
    assert rest(connection) == b""


def test_a_refused_client_that_still_sends_is_disconnected(connection, monkeypatch):
    monkeypatch.setattr("ordito.serve.connections._CLOSE_DELAY", 0.0)
    connection.sendall(HEAD.replace(b"localhost", b"evil.example") + b"content-length: 1000\r\n\r\n")
    assert rest(connection).startswith(b"HTTP/1.1 403 ")


def test_a_connection_may_be_idle_between_requests(connection):
    """Longer than a request may take to arrive; the next one has its own time."""
    for _ in range(2):
        connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        received = b""
        while b"ok" not in received:
            piece = connection.recv(1 << 16)
            assert piece
            received += piece
        time.sleep(1.5 * SECONDS)
    trickle(connection, HEAD + b"x: y\r\n" * 100)
    assert rest(connection).startswith(b"HTTP/1.1 408 ")


def test_an_answer_may_take_longer_than_a_request_may_take_to_arrive(address):
    body = {"messages": [{"role": "user", "content": "the loom"}], "max_tokens": 900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", "http://{}:{}/v1/chat/completions".format(*address), json=body, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        time.sleep(1.5 * SECONDS)
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_one_connection_too_many_gets_503(folder):
    with running([folder], max_connections=2) as url:
        host, port = url.removeprefix("http://").split(":")
        places = [socket.create_connection((host, int(port)), timeout=30) for _ in range(2)]
        with socket.create_connection((host, int(port)), timeout=30) as refused:
            answer = rest(refused)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        assert b"2 connections already" in answer
        for place in places:
            place.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            assert b"200 OK" in rest(place)
            place.close()
        assert httpx.get(f"{url}/health").status_code == 200
        for path in ("/health", "/v1/models", "/"):
            answer = httpx.head(url + path)
            assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"no request\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (HEAD + b"content-length: x\r\n\r\n", 400),
        (HEAD + b"transfer-encoding: chunked\r\n\r\nno length\r\n", 400),
        (HEAD + b"x: " + b"y" * (1 << 18), 431),
    ],
)
def test_what_is_not_http_is_refused_in_json(connection, request_, status):
    connection.sendall(request_)
    answer = rest(connection)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])["error"]["type"] == "invalid_request_error"


def test_a_broken_body_after_the_answer_closes_the_connection_quietly(connection, caplog):
    connection.sendall(HEAD.replace(b"application/json", b"text/plain") + b"transfer-encoding: chunked\r\n\r\n")
    assert connection.recv(1 << 16).startswith(b"HTTP/1.1 415 ")
    connection.sendall(b"no length\r\n")
    rest(connection)
    assert not [record for record in caplog.records if record.exc_info]
