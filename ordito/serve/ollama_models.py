"""Ollama's API, first part: the routes that list and describe models."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.responses import PlainTextResponse, Response

from ordito.accounting import count
from ordito.checkpoint.outline import Outline, outline
from ordito.errors import ConfigError, OrditoError
from ordito.families import header_from_spec
from ordito.serve.asking import Server
from ordito.serve.errors import ApiError, Json
from ordito.serve.fields import Body, Name
from ordito.serve.models import Served, unreadable
from ordito.serve.settings import ServerSettings
from ordito.serve.streaming import line
from ordito.text.answers import style_of

OLLAMA_VERSION = "0.12.6"
"""The version of Ollama whose API this is; clients ask for it before they use newer features."""
NEVER = datetime(2318, 1, 1, tzinfo=UTC).timestamp()
"""The `expires_at` of a model that is not going to be unloaded."""


class NameBody(Body):
    """A model's name; older clients send it as `name` instead of `model`."""

    model: Name = ""
    name: Name = ""
    verbose: bool | None = None
    stream: bool = True


def ollama_model_routes(server: Server) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["Ollama"])

    @routes.get("/")
    @routes.head("/", include_in_schema=False)
    async def root() -> Response:
        """The answer by which Ollama's clients recognise a server."""
        return PlainTextResponse("Ollama is running")

    @routes.get("/api/version")
    async def version() -> Json:
        """The version of the interface."""
        return {"version": OLLAMA_VERSION}

    @routes.get("/api/tags")
    @routes.head("/api/tags", include_in_schema=False)
    async def tags() -> Json:
        """All models."""
        return {"models": [await asyncio.to_thread(_listed, name, one) for name, one in server.pool.named.items()]}

    @routes.get("/api/ps")
    async def ps() -> Json:
        """The models that are loaded."""
        loaded = [one for one in server.pool.served if one.loaded]
        return {"models": [await asyncio.to_thread(_running, one, server.settings) for one in loaded]}

    @routes.post("/api/show")
    async def show(body: NameBody) -> Json:
        """The details of a model."""
        return await asyncio.to_thread(_shown, server.pool.find(body.model or body.name))

    @routes.post("/api/pull")
    async def pull(body: NameBody) -> Response:
        """Success for a model of this server, 404 for others: no request downloads anything."""
        server.pool.find(body.model or body.name)
        return Response(line({"status": "success"}), media_type="application/x-ndjson")

    @routes.post("/api/create", include_in_schema=False)
    @routes.post("/api/copy", include_in_schema=False)
    @routes.post("/api/push", include_in_schema=False)
    @routes.delete("/api/delete", include_in_schema=False)
    async def changed() -> Response:
        """Refuse every request that would change the models of the server."""
        raise ApiError(403, "models are added and removed with `ordito pull` and `ordito rm`, not over the network")

    return routes


def _outline(served: Served) -> Outline:
    """The outline of a model, of an adapter that of its base."""
    return outline(str(served.facts.path if served.facts else served.local.path))


def _listed(name: str, served: Served) -> Json:
    known: Outline | None = None
    with suppress(OrditoError):  # its files may be gone while it is loaded; the other models are listed all the same
        known = _outline(served)
    return {
        "name": name,
        "model": name,
        "modified_at": _time(served.written / 1e9),
        "size": served.local.size,
        "digest": _digest(served),
        "details": _details(served, known),
    }


def _digest(served: Served) -> str:
    """A digest that changes with the model's files: of the name, size and time, so that the weights need not be read. Ollama's
    command shows its first twelve characters, and fails on fewer."""
    return hashlib.sha256(f"{served.name} {served.local.size} {served.written}".encode()).hexdigest()


def _details(served: Served, known: Outline | None) -> Json:
    if known is None:
        return dict.fromkeys(("parent_model", "format", "family", "parameter_size", "quantization_level"), "") | {
            "families": []
        }
    family, nbytes = known.spec.architecture, Counter[str]()
    for held in (known.stored or {}).values():
        nbytes[held.encoding] += int(held.nbytes)
    number = count(known.spec).parameters
    return {
        "parent_model": "",
        "format": "gguf" if served.local.path.suffix == ".gguf" else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.2f}M",
        "quantization_level": nbytes.most_common(1)[0][0].upper() if nbytes else "",
    }


def _running(served: Served, settings: ServerSettings) -> Json:
    expires = served.expires if served.expires is not None and not served.active else None
    model = served.model
    return {
        **_listed(served.name, served),
        "expires_at": _time(NEVER if expires is None else min(expires, NEVER)),
        "size_vram": 0,
        "context_length": settings.context_of(model.spec) if model else 0,
    }


def _shown(served: Served) -> Json:
    try:
        known = _outline(served)
    except OrditoError as error:
        raise unreadable(served, error) from error
    spec = known.spec
    try:
        header = dict(header_from_spec(spec).metadata)
    except ConfigError:  # an architecture that GGUF does not know
        header = {}
    name = str(header.get("general.architecture", spec.architecture))
    template = known.metadata.get("tokenizer.chat_template") or ""
    if served.model is not None:
        template = served.model.tokenizer.chat_template or ""
    thinks = ["thinking"] if style_of(str(template)).think else []
    return {
        "license": served.local.licence or "",
        "modelfile": "",
        "parameters": "",
        "template": template,
        "details": _details(served, known),
        "model_info": {
            **{key: value for key, value in header.items() if isinstance(value, str | int | float | bool)},
            "general.architecture": name,
            "general.parameter_count": count(spec).parameters,
            f"{name}.context_length": spec.context,
            f"{name}.embedding_length": spec.d_model,
            f"{name}.block_count": spec.n_layers,
        },
        "capabilities": ["completion", "tools", *thinks] if spec.generates else ["embedding"],
        "modified_at": _time(served.written / 1e9),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
