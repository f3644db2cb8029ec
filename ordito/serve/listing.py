"""The list of models, the health check and the metrics."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, PlainTextResponse, Response

from ordito.serve.asking import Server
from ordito.serve.errors import Json
from ordito.serve.models import Served
from ordito.serve.settings import ServerSettings


def listing_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Server"])

    @routes.get("/health")
    @routes.head("/health", include_in_schema=False)
    async def health() -> Json:
        """Whether the server answers."""
        return {"status": "ok"}

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Counters, gauges and latencies, for Prometheus."""
        return PlainTextResponse(server.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/v1/models")
    @routes.head("/v1/models", include_in_schema=False)
    @routes.get("/models", include_in_schema=False)
    async def models() -> Response:
        """All models, with the fields of OpenAI and of Anthropic in one object."""
        listed = [described(name, one, server.settings) for name, one in server.pool.named.items()]
        ids = [one["id"] for one in listed]
        ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
        return JSONResponse({"object": "list", "data": listed, "has_more": False, **ends})

    @routes.get("/v1/models/{name:path}")
    @routes.get("/models/{name:path}", include_in_schema=False)
    async def model(name: str) -> Response:
        """One model."""
        served = server.pool.find(name)
        return JSONResponse(described(name if name in server.pool.named else served.name, served, server.settings))

    return routes


def described(name: str, served: Served, settings: ServerSettings) -> Json:
    """A model under one of its names, with the fields of OpenAI and of Anthropic, its sizes and the sampling settings of its
    generation_config.json; `root` is its own name."""
    created = served.written / 1e9
    known: dict[str, Any] = {}
    if served.facts is not None:
        _, spec, parameters, generation = served.facts
        known = {
            "max_model_len": settings.context_of(spec),
            "meta": {
                "n_ctx_train": spec.context,
                "n_params": parameters,
                "n_vocab": spec.vocab_size,
                "n_embd": spec.d_model,
                "size": served.local.size,
            },
            "sampling_defaults": dict(generation),
        }
    return {
        "id": name,
        "object": "model",
        "created": int(created),
        "owned_by": "ordito",
        "root": served.name,
        "parent": None,
        "state": "loaded" if served.loaded else "not-loaded",
        "type": "model",
        "display_name": name,
        "created_at": datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **known,
    }
