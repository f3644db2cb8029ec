"""A server on a port of its own, a request to it, what it streams, and its errors."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager

from ordito.serve.app import make_app
from ordito.serve.listening import Listener
from ordito.serve.settings import ServerSettings


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def chat(client, **body):
    """A short chat completion."""
    messages = [{"role": "user", "content": "the loom"}]
    return client.post(
        "/v1/chat/completions", json={"model": "x", "messages": messages, "temperature": 0, "max_tokens": 6, **body}
    )


def error(response, status):
    """The error of an answer that has this status."""
    assert response.status_code == status, response.text
    return response.json()["error"]


@contextmanager
def running(names, **settings):
    """A server in a thread; yields its address."""
    with started(names, **settings) as (address, _):
        yield address


@contextmanager
def started(names, **settings):
    """A server in a thread; yields its address and what stops it."""
    port = free_port()
    settings = ServerSettings(**{"port": port, **settings})
    app = make_app([str(name) for name in names], settings)
    server = Listener(app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(20)


def events(response):
    """The events of a stream, as (name, data)."""
    found = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in lines:
            found.append((lines.get("event"), lines["data"]))
    return found
