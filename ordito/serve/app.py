"""The application: all routes, behind one guard."""

from __future__ import annotations

import asyncio
import re
import reprlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ordito import __version__
from ordito.errors import OrditoError
from ordito.serve.anthropic import anthropic_routes
from ordito.serve.asking import Server
from ordito.serve.embeddings import embedding_routes
from ordito.serve.errors import ApiError, as_api_error, error_response
from ordito.serve.guard import Guard
from ordito.serve.listing import listing_routes
from ordito.serve.models import ModelPool
from ordito.serve.ollama import ollama_routes
from ordito.serve.ollama_models import ollama_model_routes
from ordito.serve.openai_chat import chat_routes
from ordito.serve.openai_completions import completion_routes
from ordito.serve.openai_responses import response_routes
from ordito.serve.settings import ServerSettings
from ordito.serve.tokens import token_routes


def make_app(names: Iterable[str], settings: ServerSettings, *, load: bool = False) -> Guard:
    """An ASGI application that serves models, or all that are on this machine where none is named.

    With `load`, those that are named are loaded when it starts. Raises `ModelNotFoundError`.
    """
    pool = ModelPool(names, settings)
    server = Server(pool, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(pool.sweep())
        for one in pool.only if load else ():
            async with pool.use(one.name):
                pass
        yield
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
        await pool.close()

    app = FastAPI(
        title="Ordito", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, strict_content_type=False
    )
    for routes in (
        chat_routes,
        completion_routes,
        response_routes,
        anthropic_routes,
        ollama_routes,
        ollama_model_routes,
        embedding_routes,
        token_routes,
        listing_routes,
    ):
        app.include_router(routes(server))

    async def refused(request: Request, error: Exception) -> Response:
        return error_response(as_api_error(error), request.url.path, request.state.request_id)

    async def misspelled(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_told(error), request.url.path, request.state.request_id)

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # What is no text, or has numbers of thousands of digits, is told of by its cause only.
        why = f"the body cannot be read as JSON: {error.__cause__}"[:300]
        told = ApiError(error.status_code, why if error.status_code == 400 and error.__cause__ else str(error.detail))
        return error_response(told, request.url.path, request.state.request_id)

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(OrditoError, refused)
    app.add_exception_handler(Exception, refused)
    app.add_exception_handler(RequestValidationError, misspelled)
    app.add_exception_handler(HTTPException, unknown)
    return Guard(app, settings, [one.name for one in pool.served], server.stop)


def _told(error: RequestValidationError) -> ApiError:
    """What is wrong with a body, in a sentence. Of a field that may be of several types each type has something to say: what
    says more than that the field is not of its type comes first."""
    wrong = error.errors()
    first = next((one for one in wrong if not one["type"].endswith("_type")), wrong[0])
    parts = [str(part) for part in first["loc"] if part not in ("body", "query") and not _TYPE.fullmatch(str(part))]
    place = ".".join(parts)[:200]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    got = "" if first["type"] == "missing" else f", got {reprlib.repr(first.get('input'))[:100]}"
    return ApiError(400, f"{place or 'the body'}: {first['msg'][:200]}{got}", param=place or None)


_TYPE = re.compile(r"constrained-str|str|int|float|bool|(list|dict)\[.*\]")
"""What the place of a mistake names beside fields and numbers: which of several types was tried."""
