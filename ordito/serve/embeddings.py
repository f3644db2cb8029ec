"""Vectors of texts, and documents ranked by a question."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field
from starlette.responses import JSONResponse, Response

from ordito.errors import ContextError
from ordito.model import Model
from ordito.runtime import Floats
from ordito.serve.asking import Server
from ordito.serve.errors import ApiError, new_id
from ordito.serve.fields import Body, Name, Text, keep_alive_seconds

MAX_INPUTS = 4096


class EmbeddingBody(Body):
    """POST /v1/embeddings. `prompt_name` names the task, where the model has words for it; `truncate` cuts what is too long."""

    model: Name = ""
    input: Text | list[Text] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)
    prompt_name: Name | None = None
    truncate: bool | None = None
    user: str | None = None
    keep_alive: Any = None


class RerankBody(Body):
    """POST /v1/rerank, as Jina and Cohere have it."""

    model: Name = ""
    query: Text
    documents: list[Text | dict[str, Any]] = Field(min_length=1, max_length=MAX_INPUTS)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    truncate: bool | None = None


def embedding_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Embeddings"])

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings", include_in_schema=False)
    async def embeddings(body: EmbeddingBody) -> Response:
        """One vector for each text."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, tokens = await embedded(
            server, body.model, texts, body.prompt_name, body.dimensions, body.keep_alive, cut=bool(body.truncate)
        )
        coded = _base64 if body.encoding_format == "base64" else _numbers
        data = [{"object": "embedding", "index": place, "embedding": coded(vector)} for place, vector in enumerate(vectors)]
        name = server.pool.find(body.model).name
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": used}, headers=body.ignored())

    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank", include_in_schema=False)
    @routes.post("/rerank", include_in_schema=False)
    async def rerank(body: RerankBody) -> Response:
        """Documents by how near their vectors are to that of the query: the cosine of the angle between them."""
        documents = [one if isinstance(one, str) else one.get("text") for one in body.documents]
        if not all(isinstance(text, str) for text in documents):
            raise ApiError(400, "documents: expected texts, or objects with a text", param="documents")
        texts = [text for text in documents if isinstance(text, str)]
        cut = bool(body.truncate)
        (query,), asked = await embedded(server, body.model, [body.query], "query", optional=True, cut=cut)
        vectors, read = await embedded(server, body.model, texts, "document", optional=True, cut=cut)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        scores = vectors @ query / np.maximum(lengths, 1e-12)
        results = []
        for place in np.argsort(-scores, kind="stable")[: body.top_n]:
            shown = {"document": {"text": texts[place]}} if body.return_documents else {}
            results.append({"index": int(place), "relevance_score": float(scores[place]), **shown})
        name, used = server.pool.find(body.model).name, {"total_tokens": asked + read, "prompt_tokens": asked + read}
        whole = {"id": new_id("rerank-"), "model": name, "results": results, "usage": used}
        return JSONResponse(whole, headers=body.ignored())

    return routes


async def embedded(
    server: Server,
    name: str,
    texts: Sequence[Any],
    prompt: str | None = None,
    dimensions: int | None = None,
    keep_alive: Any = None,
    *,
    optional: bool = False,
    cut: bool = False,
) -> tuple[Floats, int]:
    """The vectors (texts, D) and how many tokens were read; an `optional` prompt goes where the model has no words for it.

    Raises `ApiError` for texts that are none, `ContextError` for one that is longer than the model embeds, unless it is to be
    `cut`.
    """
    if not texts:
        raise ApiError(400, "input is empty, expected a text or a list of texts", param="input")
    if len(texts) > MAX_INPUTS:
        raise ApiError(400, f"got {len(texts)} texts, expected at most {MAX_INPUTS}", param="input")
    if not isinstance(texts[0], str):
        raise ApiError(
            400,
            "input has token ids, which mean nothing without their vocabulary: send texts "
            "(LangChain does with check_embedding_ctx_length=False)",
            param="input",
        )
    if any(not text for text in texts):
        raise ApiError(400, "input has an empty text", param="input")
    async with server.pool.use(name, keep_alive_seconds(keep_alive)) as served:
        model = served.ready[0]
        if dimensions is not None and dimensions != model.spec.d_model:
            raise ApiError(
                400, f"dimensions: this model makes vectors of {model.spec.d_model} numbers only", param="dimensions"
            )
        return await asyncio.to_thread(_embed, model, list(texts), prompt, optional, cut)


def _embed(model: Model, texts: list[str], prompt: str | None, optional: bool, cut: bool) -> tuple[Floats, int]:
    if optional and prompt not in model.prompts:
        prompt = None
    before, pooling = model.prompts.get(prompt or "", ""), model.spec.pooling
    longest = min((pooling.max_tokens if pooling else None) or model.spec.context, model.spec.context)
    lengths = [len(model.tokenizer.encode(before + text)) for text in texts]
    for place, length in enumerate(lengths):
        if length > longest and not cut:
            raise ContextError(
                f"text {place} has {length:,} tokens, of at most {longest:,}: shorten it, or send truncate", length, longest
            )
    return model.embed(texts, prompt=prompt), sum(min(length, longest) for length in lengths)


def _numbers(vector: Floats) -> list[float]:
    return [float(value) for value in vector]


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
