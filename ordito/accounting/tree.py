"""The tree of a model's parameters and bytes by module, with equal layers folded into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from math import prod
from typing import Any, Protocol

from ordito.accounting.parameters import Tensor
from ordito.spec.node import Shape


class Stored(Protocol):
    """How a file holds one tensor."""

    @property
    def encoding(self) -> str:
        """The name of its number format."""

    @property
    def nbytes(self) -> float:
        """Bytes that it takes; of a fused tensor, the share of this part."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module of a model, or `times` equal ones together: numbers are sums over all of them.

    `shape` is that of the weight, if the module holds one. `active` are the parameters used for one token, `nbytes` the bytes,
    in these `encodings` (most bytes first; none if nothing is stored, and a number takes two bytes).
    """

    name: str
    times: int = 1
    shape: Shape | None = None
    parameters: int
    active: int
    nbytes: float
    encodings: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()

    def walk(self, depth: int = 0) -> Iterator[tuple[int, Part]]:
        """This part and all below it in order, each with its depth."""
        yield depth, self
        for part in self.parts:
            yield from part.walk(depth + 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "times": self.times,
            "shape": list(self.shape) if self.shape else None,
            "parameters": self.parameters,
            "active": self.active,
            "bytes": round(self.nbytes),
            "stored_as": list(self.encodings),
            "parts": [part.to_dict() for part in self.parts],
        }


def tree_of(tensors: Iterable[Tensor], stored: Mapping[str, Stored] | None = None) -> Part:
    """The tree of `tensors` by their canonical names, with the bytes of `stored` or, without it, two for each number."""
    root = _Place()
    for tensor in tensors:
        place = root
        for name in tensor.name.split("."):
            place = place.below.setdefault(name, _Place())
        held = stored[tensor.name] if stored is not None else None
        place.tensor, place.nbytes = tensor, 2.0 * prod(tensor.shape) if held is None else held.nbytes
        place.encoding = held.encoding if held is not None else None
    return root.part("model")


@dataclass
class _Place:
    """A node of the tree of names while it grows."""

    below: dict[str, _Place] = field(default_factory=dict)
    tensor: Tensor | None = None
    nbytes: float = 0.0
    encoding: str | None = None

    def part(self, name: str) -> Part:
        if self.tensor is not None:
            return Part(
                name=name,
                shape=self.tensor.shape,
                parameters=self.tensor.parameters,
                active=self.tensor.active,
                nbytes=self.nbytes,
                encodings=(self.encoding,) if self.encoding else (),
            )
        if self.below.keys() <= {"weight", "bias"}:  # one part: a matrix and its bias
            both = _sum(name, [place.part(key) for key, place in self.below.items()])
            return replace(both, shape=both.parts[0].shape, parts=())
        if all(key.isdigit() for key in self.below):
            return _sum(name, list(_folded([(int(key), place.part("")) for key, place in self.below.items()])))
        return _sum(name, [place.part(key) for key, place in self.below.items()])


def _sum(name: str, parts: Sequence[Part]) -> Part:
    by_encoding: Counter[str] = Counter()
    for part in parts:
        for encoding in part.encodings:
            by_encoding[encoding] += int(part.nbytes)
    return Part(
        name=name,
        parameters=sum(part.parameters for part in parts),
        active=sum(part.active for part in parts),
        nbytes=sum(part.nbytes for part in parts),
        encodings=tuple(encoding for encoding, _ in by_encoding.most_common()),
        parts=tuple(parts),
    )


def _folded(layers: Sequence[tuple[int, Part]]) -> Iterator[Part]:
    """Fold layers with the same tensors into one part each, with sums; in order of the first of each kind."""
    kinds: dict[Part, list[tuple[int, Part]]] = {}
    for number, layer in layers:
        kinds.setdefault(_bare(layer), []).append((number, layer))
    for kind in kinds.values():
        yield _added(ranges([number for number, _ in kind]), [layer for _, layer in kind])


def _bare(part: Part) -> Part:
    """A part without bytes and encodings, in which equal layers may differ."""
    return replace(part, nbytes=0.0, encodings=(), parts=tuple(_bare(below) for below in part.parts))


def _added(name: str, alike: Sequence[Part]) -> Part:
    whole = _sum(name, alike)
    below = tuple(_added(parts[0].name, parts) for parts in zip(*(part.parts for part in alike), strict=True))
    return replace(whole, times=len(alike) * alike[0].times, shape=alike[0].shape, parts=below)


def ranges(numbers: Sequence[int]) -> str:
    """Numbers as text, with runs abbreviated.

    >>> ranges([0, 1, 2, 3, 4, 6, 7])
    '0-4, 6-7'
    """
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
