"""The settings of a server."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from ordito.engine.backends import check_settings
from ordito.errors import OrditoError
from ordito.spec import Spec

MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens, who may use it, and its limits.

    - `keys`: API keys, accepted as `Authorization: Bearer` or `x-api-key`; without any, the server listens on loopback only.
    - `origins`: other web sites whose scripts may call it (CORS); `hosts`: further host names of this server.
    - `max_body`, `max_header`: bytes of a request.
    - `max_waiting`: queued requests of a model; `most_together`: answers in a batch; `request_seconds`: limit of an answer.
    - `context`: a smaller limit than the models' own on prompt and answer together, in tokens.
    - `cache`, `cache_limit`: the type of the KV cache, and its bytes for each model (None: a quarter of the free memory).
    - `draft`: the draft model of speculative decoding, for all models with its vocabulary.
    - `keep_alive`: seconds until an unused model is unloaded (None: never); `memory`: bytes of all loaded models together, for
      which the least recently used ones are unloaded.
    - `max_connections`; `arrival_seconds`: in which the head of a request must arrive, and then its body.
    - `ping_seconds`: the silence after which a stream sends a ping.
    - `strict_names`: refuse unknown names even if there is only one model; `aliases`: further names of models.

    Raises `OrditoError` for a host that others can reach without a key, a weak key, or settings that the backend does not have.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Sequence[str] = ()
    origins: Sequence[str] = ()
    hosts: Sequence[str] = ()
    max_body: int = 8 * MEGABYTE
    max_header: int = 32 << 10
    max_waiting: int = 512
    most_together: int = 64
    context: int | None = None
    cache: str | None = None
    cache_limit: int | None = None
    draft: str | None = None
    dtype: str | None = None
    backend: str | None = None
    keep_alive: float | None = 300.0
    memory: int | None = None
    max_connections: int = 900
    arrival_seconds: float = 60.0
    request_seconds: float = 1800.0
    ping_seconds: float = 15.0
    strict_names: bool = False
    aliases: dict[str, str] = field(default_factory=dict)

    def context_of(self, spec: Spec) -> int:
        """The tokens of prompt and answer together that a model may have here, or of a text that it embeds, at most."""
        embedded = spec.pooling.max_tokens if spec.pooling and not spec.generates else None
        return min(spec.context, self.context or spec.context, embedded or spec.context)

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise OrditoError(
                f"to listen on {self.host}, where others can reach it, a server needs a key: give --api-key or --api-key-file, "
                "or listen on 127.0.0.1"
            )
        check_settings(self.backend, self.dtype, self.cache)
        if not self.request_seconds > 0:
            raise OrditoError(f"the time limit of an answer is {self.request_seconds} seconds, expected a number above 0")
        for key in self.keys:
            if not key.isascii() or not key.isprintable() or " " in key or len(key) < 8:
                raise OrditoError("an API key must have at least 8 printable ASCII characters, without spaces")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
