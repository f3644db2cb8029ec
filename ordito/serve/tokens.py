"""Tokenization, detokenization, and chat templates rendered to prompts."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import JSONResponse, Response

from ordito.model import Model
from ordito.serve.asking import Server
from ordito.serve.errors import ApiError, Json
from ordito.serve.fields import Body, Ids, Name, Text
from ordito.serve.settings import ServerSettings
from ordito.text.chat import thinking_options
from ordito.text.tokenizer import GUARD


class TokenizeBody(Body):
    """POST /tokenize: a text, as `content` or `prompt`, or a conversation."""

    model: Name = ""
    content: Text | None = None
    prompt: Text | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_special: bool | None = None
    add_special_tokens: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class DetokenizeBody(Body):
    """POST /detokenize."""

    model: Name = ""
    tokens: Ids


class TemplateBody(Body):
    """POST /apply-template."""

    model: Name = ""
    messages: list[dict[str, Any]] = Field(min_length=1)
    tools: list[dict[str, Any]] | None = None
    enable_thinking: bool | None = None


def _tokenized(model: Model, body: TokenizeBody, settings: ServerSettings) -> Response:
    if body.messages is not None:
        ids = model.encode_chat(body.messages, tools=body.tools)
    else:
        text = body.content if body.content is not None else body.prompt
        if text is None:
            raise ApiError(400, "there is nothing to tokenize: give content, prompt or messages")
        add_special = body.add_special_tokens if body.add_special is None else body.add_special
        parse_special = True if body.parse_special is None else body.parse_special
        ids = model.tokenizer.encode(text, add_special_tokens=bool(add_special), parse_special=parse_special)
    pieces = {"pieces": [model.tokenizer.token(id) for id in ids]} if body.with_pieces else {}
    return JSONResponse({"tokens": ids, "count": len(ids), "max_model_len": settings.context_of(model.spec), **pieces})


def token_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Tokens"])

    @routes.post("/tokenize")
    async def tokenize(body: TokenizeBody) -> Response:
        """The token ids of a text or a conversation."""
        async with server.pool.use(body.model) as served:
            return await server.counted(partial(_tokenized, served.ready[0], body, server.settings))

    @routes.post("/detokenize")
    async def detokenize(body: DetokenizeBody) -> Json:
        """The text of token ids."""
        async with server.pool.use(body.model) as served:
            tokenizer = served.ready[0].tokenizer
            text = await asyncio.to_thread(tokenizer.decode, body.tokens, skip_special_tokens=False)
            return {"content": text, "prompt": text}

    @routes.post("/apply-template")
    async def apply_template(body: TemplateBody) -> Json:
        """The prompt of a conversation, as the chat template renders it."""
        async with server.pool.use(body.model) as served:
            model, options = served.ready[0], thinking_options(body.enable_thinking)
            prompt = await asyncio.to_thread(model.render, body.messages, tools=body.tools, **options)
            return {"prompt": prompt.replace(GUARD, "")}

    return routes
