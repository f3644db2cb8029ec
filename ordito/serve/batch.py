"""Files of requests in OpenAI's batch format (one JSON object a line), answered by the application without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ordito.errors import OrditoError
from ordito.files import write_atomically
from ordito.serve.app import make_app
from ordito.serve.errors import Json, new_id
from ordito.serve.guard import App
from ordito.serve.settings import ServerSettings

URLS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")

_ID = "batch_req_"
_BEGINNING = f'{{"id": "{_ID}'.encode()
"""The first bytes of every answer, by which a last line that was cut short is known."""


def read_requests(path: Path) -> list[Json]:
    """The requests of a file. Raises `OrditoError`, which names the line, for anything that is not a request."""
    requests: list[Json] = []
    seen: dict[str, int] = {}
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                request = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise OrditoError(f"{path}:{number}: is not JSON ({error})") from None
            name = request.get("custom_id") if isinstance(request, dict) else None
            if not isinstance(name, str) or not isinstance(request.get("body"), dict):
                raise OrditoError(f'{path}:{number}: expected {{"custom_id": ..., "url": ..., "body": {{...}}}}')
            if request.get("url") not in URLS:
                raise OrditoError(f"{path}:{number}: url is {request.get('url')!r:.100}, expected one of {', '.join(URLS)}")
            if name in seen:
                raise OrditoError(f"{path}:{number}: custom_id {name!r:.100} is in line {seen[name]} already")
            seen[name] = number
            requests.append(request)
    return requests


def answered(path: Path) -> set[str]:
    """The custom_ids of the requests that a file has answers to.

    Failed answers and a last line that was cut short are removed from the file, so that their requests are sent again. Raises
    `OrditoError` for a file that holds anything else, and leaves it as it is.
    """
    if not path.exists():
        return set()
    data = path.read_bytes()
    ids, kept = set(), []
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.endswith(b"\n") and line[: len(_BEGINNING)] == _BEGINNING[: len(line)]:
            continue  # cut short
        try:
            answer = json.loads(line)
            name, status = answer["custom_id"], answer["response"]["status_code"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise OrditoError(f"{path}:{number}: is not an answer to a batch request: give another OUT") from None
        if status == 200:
            ids.add(name)
            kept.append(line)
    if b"".join(kept) != data:
        write_atomically(path, kept)
    return ids


async def run_batch(
    requests: list[Json], out: Path, settings: ServerSettings, *, model: str | None = None, done: Callable[[], object]
) -> int:
    """Answer `requests` and append each answer to `out` as soon as it is finished; returns how many failed.

    `model` answers the requests that name no model. `done` is called after each.
    """
    app, failed = make_app([model] if model else [], settings), 0
    slots = asyncio.Semaphore(settings.most_together)

    async def answer(request: Json) -> None:
        nonlocal failed
        async with slots:
            body = request["body"] if model is None else {"model": model, **request["body"]}
            status, content = await _post(app, request["url"], {**body, "stream": False})
        response = {"status_code": status, "request_id": new_id("req_"), "body": content}
        failed += status != 200
        named = {"id": new_id(_ID), "custom_id": request["custom_id"]}
        file.write(json.dumps({**named, "response": response, "error": None}) + "\n")
        file.flush()
        done()

    with out.open("a", encoding="utf-8") as file:
        async with _started(app), asyncio.TaskGroup() as tasks:
            for request in requests:
                tasks.create_task(answer(request))
    return failed


async def _post(app: App, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
    """The status and the JSON content of an application's answer to a POST, called directly as ASGI."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", "http_version": "1.1"}
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
    status, parts = 0, []

    async def receive() -> Any:
        if not messages:
            await asyncio.Event().wait()  # for ever: there is no client that could disconnect
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    await app({**scope, "state": {}}, receive, send)
    return status, json.loads(b"".join(parts) or b"null")


@asynccontextmanager
async def _started(app: App) -> AsyncIterator[None]:
    """Run the application's startup before the block, and its shutdown after it (ASGI's lifespan protocol)."""
    sent: asyncio.Queue[Any] = asyncio.Queue()
    answers: asyncio.Queue[Any] = asyncio.Queue()

    async def run() -> None:
        await app({"type": "lifespan", "state": {}}, sent.get, answers.put)

    running = asyncio.create_task(run())
    await sent.put({"type": "lifespan.startup"})
    await answers.get()
    try:
        yield
    finally:
        await sent.put({"type": "lifespan.shutdown"})
        await answers.get()
        await running
