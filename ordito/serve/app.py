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
    """An ASGI application that serves the models of these `names`, or, if there are none, all that are on this machine.

    With `load`, the named models are loaded at startup. Raises `ModelNotFoundError`, and `OrditoError` for a model that cannot
    be loaded.
    """
    pool = ModelPool(names, settings)
    server = Server(pool, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(pool.sweep())
        for one in pool.given if load else ():
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

    async def failed(request: Request, error: Exception) -> Response:
        return error_response(as_api_error(error), request.url.path, request.state.request_id)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return error_response(_validation_error(error), request.url.path, request.state.request_id)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # FastAPI says only in the cause why a body is not JSON: not UTF-8, or a number of thousands of digits.
        why = f"the body cannot be read as JSON: {error.__cause__}"[:300]
        answer = ApiError(error.status_code, why if error.status_code == 400 and error.__cause__ else str(error.detail))
        return error_response(answer, request.url.path, request.state.request_id)

    app.add_exception_handler(ApiError, failed)
    app.add_exception_handler(OrditoError, failed)
    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http_error)
    return Guard(app, settings, [one.name for one in pool.served], server.stop)


def _validation_error(error: RequestValidationError) -> ApiError:
    """The first mistake in a body, in a sentence. A field that may have several types has an error for each of them: one that
    says more than that the type is wrong goes before the others."""
    wrong = error.errors()
    first = next((one for one in wrong if not one["type"].endswith("_type")), wrong[0])
    parts = [str(part) for part in first["loc"][1:] if not _TYPE.fullmatch(str(part))]
    place = ".".join(parts)[:200]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    got = "" if first["type"] == "missing" else f", got {reprlib.repr(first.get('input'))[:100]}"
    return ApiError(400, f"{place or 'the body'}: {first['msg'][:200]}{got}", param=place or None)


_TYPE = re.compile(r"constrained-str|str|int|float|bool|(list|dict)\[.*\]")
"""Names of types in the location of an error, which is otherwise made of fields and indices: which type was tried."""
