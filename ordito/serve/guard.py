"""Checks of every request before the application sees it: host name, origin, API key, size, time to arrive."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ordito.serve.errors import ApiError, as_api_error, error_response, new_id
from ordito.serve.settings import ServerSettings, is_loopback

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/health"})
"""Paths that need no API key."""
MAX_COMMAS = 1 << 18
"""Commas in a body, at most. JSON is parsed in one go on the event loop: millions of values would block it for seconds."""
_ALLOWED_HEADERS = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta"

log = logging.getLogger("ordito.serve")


class Guard:
    """An ASGI application around another one, which serves models of these `names`; `stop` cancels its running answers.

    Prompts and keys are not logged.
    """

    def __init__(self, app: App, settings: ServerSettings, names: Sequence[str], stop: Callable[[], None]) -> None:
        self.app, self.settings, self.names, self.stop = app, settings, names, stop
        self.keys = [_digest(key.encode()) for key in settings.keys]
        self.hosts = {"localhost", "127.0.0.1", "::1", settings.host.strip("[]").lower(), *map(str.lower, settings.hosts)}
        self.origins = {origin.rstrip("/") for origin in settings.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or answer it with an error in the format of its API."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        path, request_id = scope["path"], new_id("req_")
        exchange = _Exchange(receive, send, self.settings, self._response_headers(headers, request_id))
        try:
            self._check(scope, headers)
            if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
                await exchange.send({"type": "http.response.start", "status": 204, "headers": []})
                await exchange.send({"type": "http.response.body"})
                return
            self._check_key(path, headers)
            scope.setdefault("state", {}).update(user=self._user(headers), request_id=request_id)
            await self.app(scope, exchange.receive, exchange.send_unless_refused)
            if exchange.refusal and not exchange.started:
                raise exchange.refusal
        except Exception as error:
            answer = as_api_error(error)
            if answer.status >= 500:
                log.exception("%s %s failed (%s)", scope["method"], path, request_id)
            if not exchange.started:
                await error_response(answer, path, request_id)(scope, receive, exchange.send)

    def _response_headers(self, headers: dict[str, str], request_id: str) -> dict[str, str]:
        """The headers that every response to a request with these `headers` gets."""
        common = {"x-request-id": request_id, "request-id": request_id, "x-content-type-options": "nosniff"}
        origin = headers.get("origin")
        if origin and self._origin(origin):
            common |= _cors(origin, headers.get("access-control-request-headers"))
        return common

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        if (size := sum(len(name) + len(value) for name, value in scope["headers"])) > self.settings.max_header:
            raise ApiError(431, f"the headers have {size} bytes, expected at most {self.settings.max_header}")
        host = _host(headers.get("host", ""))
        if not (host in self.hosts or (self.keys and not is_loopback(self.settings.host))):
            # DNS rebinding: a page of another site makes its own name point here, and is recognised by that name.
            raise ApiError(403, f"this server is not called {host[:100]!r}; --allow-host adds a name", code="host_not_allowed")
        origin = headers.get("origin")
        if origin and not self._origin(origin):
            raise ApiError(403, f"pages from {origin[:100]!r} may not call this server; --allow-origin permits it")
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self.settings.max_body:
            raise ApiError(413, f"the request has {length[:20]} bytes, expected at most {self.settings.max_body}")
        if scope["method"] in ("POST", "PUT", "PATCH") and (length != "0" or "transfer-encoding" in headers):
            kind = headers.get("content-type", "").split(";")[0].strip().lower()
            # Forms are refused: browsers send those of other sites without a preflight (CSRF). Ollama's clients send no type.
            if kind == "application/x-www-form-urlencoded" and not origin:
                # `curl -d`, as in Ollama's documentation: of a page's script the origin is known, and its forms cannot be JSON.
                scope["headers"] = [header for header in scope["headers"] if header[0] != b"content-type"]
            elif kind not in ("application/json", "") and not (kind.startswith("application/") and kind.endswith("+json")):
                raise ApiError(415, f"the content type is {kind[:100]!r}, expected application/json")

    def _origin(self, origin: str) -> bool:
        return origin in self.origins or is_loopback(_host(origin.partition("://")[2]))

    def _check_key(self, path: str, headers: dict[str, str]) -> None:
        if self.keys and path not in OPEN and not self._known(_key_of(headers)):
            raise ApiError(401, "the API key is missing or not known to this server", code="invalid_api_key")

    def _known(self, key: str) -> bool:
        # The digest is compared with all known ones in constant time, so that the time reveals nothing of a key.
        digest = _digest(key.encode("latin-1", "replace"))
        return sum(hmac.compare_digest(digest, known) for known in self.keys) > 0

    def _user(self, headers: dict[str, str]) -> str:
        """The user, for fair queueing and the prefix cache: requests with the same key are of the same user."""
        return _digest(_key_of(headers).encode("latin-1", "replace")).hex() if self.keys else ""


class _Exchange:
    """The body of one request as it arrives, within the limits of size and time, and the response with its common `headers`.

    `refusal`: why the body was not read to its end; `started`: whether the response has begun.
    """

    def __init__(self, receive: Receive, send: Send, settings: ServerSettings, headers: dict[str, str]) -> None:
        self._receive, self._send, self.settings, self.headers = receive, send, settings, headers
        self.deadline: float | None = asyncio.get_running_loop().time() + settings.arrival_seconds
        self.length = self.commas = 0
        self.refusal: ApiError | None = None
        self.started = False

    async def receive(self) -> MutableMapping[str, Any]:
        """The next part of the body. Raises `ApiError` 408 if it is late, 413 if there is too much of it."""
        try:
            async with asyncio.timeout_at(self.deadline):
                message = await self._receive()
        except TimeoutError:
            self.headers["connection"] = "close"
            self.refusal = ApiError(408, f"the body of the request took longer than {self.settings.arrival_seconds:g} seconds")
            raise self.refusal from None
        if not message.get("more_body"):
            self.deadline = None
        body = message.get("body", b"")
        self.length, self.commas = self.length + len(body), self.commas + body.count(b",")
        if self.length > self.settings.max_body:
            self.refusal = ApiError(413, f"the request has more than {self.settings.max_body} bytes")
        elif self.commas > MAX_COMMAS:
            self.refusal = ApiError(413, f"the request has more than {MAX_COMMAS} values, or commas in its texts: send less")
        if self.refusal:
            raise self.refusal
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.started = True
            message["headers"] = [*message.get("headers", ()), *((k.encode(), v.encode()) for k, v in self.headers.items())]
        await self._send(message)

    async def send_unless_refused(self, message: MutableMapping[str, Any]) -> None:
        """Send what the application answers, but for its own error about a body that was refused, which would hide why."""
        if self.refusal is None or self.started:
            await self.send(message)


def _key_of(headers: dict[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" and token.strip() else headers.get("x-api-key", "")


def _host(text: str) -> str:
    try:
        return urlsplit(f"//{text}").hostname or ""
    except ValueError:
        return ""


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _cors(origin: str, requested_headers: str | None) -> dict[str, str]:
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST, DELETE, OPTIONS",
        "access-control-allow-headers": requested_headers or _ALLOWED_HEADERS,
        "vary": "origin",
    }
