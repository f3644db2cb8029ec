"""OpenAI's embeddings, and reranking: documents ordered by similarity to a query."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ordito.runtime import Floats
from ordito.serve.asking import Server
from ordito.serve.errors import ApiError, Json, new_id
from ordito.serve.fields import MAX_INPUTS, Body, IdLists, Ids, Name, Text, Texts
from ordito.serve.streaming import long_list
from ordito.serve.vectors import embedded


class EmbeddingBody(Body):
    """POST /v1/embeddings. `prompt_name` names a task for which the model has a prefix; `truncate` truncates long texts."""

    model: Name = ""
    input: Text | Texts | Ids | IdLists
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(default=None, ge=1, le=1 << 20)
    prompt_name: Name | None = None
    truncate: bool | None = None
    user: str | None = None
    keep_alive: Any = None


class RerankBody(Body):
    """POST /v1/rerank, with the fields of Jina's and Cohere's APIs."""

    model: Name = ""
    query: Text = Field(min_length=1)
    documents: list[Text | dict[str, Any]] = Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool | None = None
    truncate: bool | None = None


def embedding_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Embeddings"])

    @routes.post("/v1/embeddings")
    @routes.post("/embeddings", include_in_schema=False)
    async def embeddings(body: EmbeddingBody, http: HttpRequest) -> Response:
        """One embedding vector for each text."""
        texts = [body.input] if isinstance(body.input, str) else body.input
        vectors, tokens = await embedded(
            server, http, body.model, texts, body.prompt_name, body.dimensions, body.keep_alive, truncate=bool(body.truncate)
        )
        encoded = _base64 if body.encoding_format == "base64" else _numbers
        data = ({"object": "embedding", "index": place, "embedding": encoded(vector)} for place, vector in enumerate(vectors))
        used = {"prompt_tokens": tokens, "total_tokens": tokens}
        head = {"object": "list", "model": server.pool.find(body.model).name, "usage": used}
        return await long_list(head, "data", data, body.ignored())

    @routes.post("/v1/rerank")
    @routes.post("/v2/rerank", include_in_schema=False)
    @routes.post("/rerank", include_in_schema=False)
    async def rerank(body: RerankBody, http: HttpRequest) -> Response:
        """Documents, ordered by the cosine similarity of their embeddings to that of the query."""
        documents = [one if isinstance(one, str) else one.get("text") for one in body.documents]
        if not all(isinstance(text, str) and text for text in documents):
            raise ApiError(400, "documents: expected texts, or objects with a text, none of them empty", param="documents")
        texts = [text for text in documents if isinstance(text, str)]
        cut = bool(body.truncate)
        (query,), query_tokens = await embedded(server, http, body.model, [body.query], "query", optional=True, truncate=cut)
        vectors, text_tokens = await embedded(server, http, body.model, texts, "document", optional=True, truncate=cut)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
        scores = vectors @ query / np.maximum(lengths, 1e-12)
        order = np.argsort(-scores, kind="stable")[: body.top_n].tolist()

        def result(place: int) -> Json:
            shown = {"document": {"text": texts[place]}} if body.return_documents else {}
            return {"index": place, "relevance_score": float(scores[place]), **shown}

        tokens = query_tokens + text_tokens
        used = {"total_tokens": tokens, "prompt_tokens": tokens}
        head = {"id": new_id("rerank-"), "model": server.pool.find(body.model).name, "usage": used}
        return await long_list(head, "results", map(result, order), body.ignored())

    return routes


def _numbers(vector: Floats) -> list[float]:
    return vector.tolist()


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
