"""The published models as rows of numbers, for tables and charts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from ordito import catalogue
from ordito.accounting import count
from ordito.catalogue import Entry
from ordito.comparing.facts import kind
from ordito.errors import OrditoError, OrditoWarning, did_you_mean, unknown
from ordito.families import spec_from_config
from ordito.spec import Attention, LatentAttention, MixtureOfExperts


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of a configuration; sizes as `ordito.account` counts them, the KV cache at 16 bits.

    `experts` is "chosen of all", or "" for a dense model; `attention` the kind, and `windows` whether some layers have a
    sliding window or chunks.
    """

    layers: int
    d_model: int
    vocab_size: int
    attention: str
    windows: bool
    experts: str
    total: int
    active: int
    kv_bytes_per_token: int
    kv_bytes_growing: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published model; `shape` is None if it is closed."""

    entry: Entry
    shape: Shape | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values with stable keys; what is not published is null."""
        e = self.entry
        nothing = dict.fromkeys(Shape.__dataclass_fields__)
        return {
            "name": e.name,
            "id": e.id,
            "family": e.family,
            "publisher": e.publisher,
            "released": e.released,
            "closed": e.closed,
            "context": e.context,
            "modalities": list(e.modalities),
            "license": e.license,
            **(asdict(self.shape) if self.shape else nothing),
        }


def rows(
    *, family: str | None = None, closed: bool | None = None, since: str | None = None, name: str | None = None
) -> list[Row]:
    """The published models, in the order of the catalogue.

    Filters: a `family`, `closed` or open ones, released `since` a year or a month, `name` as a part of their name,
    in any case and with dashes or spaces. Raises `OrditoError` for an unknown family.
    """
    titles = catalogue.titles()
    wanted = family.casefold() if family is not None else None
    if wanted is not None and wanted not in titles:
        near = did_you_mean(wanted, titles)
        raise OrditoError(f"the catalogue has no family {family!r}, expected one of {', '.join(titles)}{near}")
    return [
        Row(entry=entry, shape=shape_of(entry))
        for entry in catalogue.models()
        if (wanted is None or entry.family == wanted)
        and (closed is None or entry.closed == closed)
        and (since is None or entry.released >= since)
        and (name is None or _spaced(name) in _spaced(entry.name))
    ]


def _spaced(name: str) -> str:
    return re.sub(r"[-_\s]+", " ", name.casefold()).strip()


def shape_of(entry: Entry) -> Shape | None:
    """The shape of an entry, computed once for all entries with the same configuration."""
    if entry.config is None:
        return None
    return _shape(next(e.name for e in catalogue.models() if e.config is entry.config))


@cache
def _shape(name: str) -> Shape:
    entry = catalogue.find(name)
    assert entry.config is not None, "a closed model has no shape"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OrditoWarning)
        spec = spec_from_config(entry.config, entry.name)
    counted = count(spec)
    leaves = [leaf for path, leaf in spec.leaves() if not path.startswith("ahead.")]
    attention = next(leaf for leaf in leaves if isinstance(leaf, (Attention, LatentAttention)))
    mixture = next((leaf for leaf in leaves if isinstance(leaf, MixtureOfExperts)), None)
    return Shape(
        layers=spec.n_layers,
        d_model=spec.d_model,
        vocab_size=spec.vocab_size,
        attention=kind(attention),
        windows=any(isinstance(leaf, Attention) and bool(leaf.window or leaf.chunk) for leaf in leaves),
        experts=f"{mixture.router.top_k} of {mixture.router.n_experts}" if mixture else "",
        total=counted.parameters,
        active=counted.active_parameters,
        kv_bytes_per_token=counted.kv_bytes_per_token,
        kv_bytes_growing=counted.kv_bytes_growing,
    )


def _number(get: Callable[[Shape], int]) -> Callable[[Row], tuple[bool, int]]:
    """A sort key: largest numbers first, models without a shape last."""
    return lambda row: (row.shape is None, -get(row.shape) if row.shape else 0)


ORDERS: dict[str, Callable[[Row], Any]] = {
    "name": lambda row: row.entry.name.casefold(),
    "released": lambda row: row.entry.released,
    "context": lambda row: -(row.entry.context or 0),
    "total": _number(lambda shape: shape.total),
    "active": _number(lambda shape: shape.active),
    "kv": _number(lambda shape: shape.kv_bytes_per_token),
    "layers": _number(lambda shape: shape.layers),
}
"""Sort keys by name: names and dates ascending, numbers descending."""


def ordered(found: Iterable[Row], by: str) -> list[Row]:
    """The rows in one of `ORDERS`. Raises `OrditoError` for another one."""
    if by not in ORDERS:
        raise OrditoError(unknown("order", by, ORDERS))
    return sorted(found, key=ORDERS[by])
