"""What whoever starts a server decides."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from ordito.engine.backends import check_settings
from ordito.errors import OrditoError

MEGABYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Where a server listens, who may ask, and how much.

    `keys` are accepted as `Authorization: Bearer` or `x-api-key`; without one the server listens on loopback only. `origins`
    are pages elsewhere whose scripts may ask, `hosts` further names by which it may be called. `draft` names a smaller model
    that guesses for all others of its vocabulary. A model that nobody asked for `keep_alive` seconds is unloaded (None: never),
    and the one used longest ago where all take more than `memory` bytes. `max_waiting` requests may wait for a model; one may
    take `request_seconds`. There may be `max_connections`; the head of a request must arrive in `arrival_seconds`, and so must
    its body.
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

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise OrditoError(
                f"to listen on {self.host}, where others can reach it, a server needs a key: give --api-key or --api-key-file, "
                "or listen on 127.0.0.1"
            )
        check_settings(self.backend, self.dtype, self.cache)
        if not self.request_seconds > 0:
            raise OrditoError(f"an answer may take {self.request_seconds} seconds, expected a number above 0")
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
