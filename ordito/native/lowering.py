"""A program under construction: its buffers, what it shares with others, and operations that many blocks are lowered to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ordito import _core
from ordito.errors import OrditoError
from ordito.native.screening import screened
from ordito.native.weights import Weights
from ordito.runtime import Floats
from ordito.spec import Norm, Rope, Spec, Temperature

Place = tuple[int, int]
"""A buffer and its first column."""


class NotLoweredError(OrditoError):
    """A block that the native runtime cannot compute."""


@dataclass(frozen=True)
class Slot:
    """What one attention caches of a token: key-value heads, widths of a key and a value, and how far it looks back.

    `of_source`: keys and values of the encoder's text, not of the decoder's.
    """

    heads: int
    key_width: int
    value_width: int
    value_in_key: bool = False
    span: int = 0
    of_source: bool = False

    @property
    def fields(self) -> tuple[int, int, int, bool, int, bool]:
        """In the order that the C++ side expects."""
        return self.heads, self.key_width, self.value_width, self.value_in_key, self.span, self.of_source


@dataclass
class Shared:
    """What the programs of one model share: its weights, each packed once, and the slots of its attentions."""

    spec: Spec
    weights: Weights
    slots: dict[str, Slot] = field(default_factory=dict)
    packed: dict[str, _core.Packed] = field(default_factory=dict)
    experts: dict[str, list[_core.Packed]] = field(default_factory=dict)
    heads: dict[str, tuple[list[_core.Packed], list[_core.Packed]]] = field(default_factory=dict)

    def matrix(self, name: str) -> _core.Packed:
        """The packed weight of a linear map."""
        if name not in self.packed:
            self.packed[name] = self.weights.matrix(name, split=name == screened(self.spec))
        return self.packed[name]

    def exact_matrix(self, name: str) -> _core.Packed:
        """The same in fp32: rounding a router's weights could change its choices."""
        if name not in self.packed:
            self.packed[name] = self.weights.pack(self.weights.array(name))
        return self.packed[name]

    def expert_matrices(self, name: str) -> list[_core.Packed]:
        """The packed weights of all experts' copies of a linear map."""
        if name not in self.experts:
            self.experts[name] = self.weights.matrices(name)
        return self.experts[name]

    def slot(self, path: str, slot: Slot) -> int:
        """The number of the slot of the attention at `path`, which is the same in all programs."""
        self.slots.setdefault(path, slot)
        return list(self.slots).index(path)


class Lowering:
    """A program under construction. Buffers that are released are reused."""

    def __init__(self, model: Shared) -> None:
        self.model, self.weights = model, model.weights
        self.builder = _core.Builder()
        self.free: dict[int, list[int]] = {}
        self.widths: dict[int, int] = {}
        self.ropes: list[Rope] = []
        self.temperatures: list[Temperature] = []
        self.relative: Floats | None = None  # the bias table of the stack's first layer, which later layers share

    def allocate(self, width: int) -> Place:
        """A buffer with rows of `width` numbers."""
        free = self.free.get(width)
        if free:
            return free.pop(), 0
        number = self.builder.buffer(width)
        self.widths[number] = width
        return number, 0

    def release(self, place: Place) -> None:
        """Say that a buffer's contents are not needed any more."""
        self.free.setdefault(self.widths[place[0]], []).append(place[0])

    def add_to(self, y: Place, add: Place) -> Place:
        """y + add, in place."""
        self.builder.add(y, add, y, self.widths[y[0]])
        return y

    def linear(self, x: Place, maps: Sequence[tuple[str, int]], add: Place | None = None) -> Place:
        """Several maps of x, concatenated."""
        y = self.allocate(sum(width for _, width in maps))
        starts = [0, *np.cumsum([width for _, width in maps]).tolist()]
        self.builder.linear(
            x,
            y,
            add,
            [
                (self.model.matrix(f"{name}.weight"), self.weights.vector(f"{name}.bias"), 0, start)
                for (name, _), start in zip(maps, starts, strict=False)
            ],
        )
        return y

    def norm(self, block: Norm, path: str, x: Place, y: Place, count: int) -> None:
        """Normalise `count` parts of each row of x into y."""
        weight = self.weights.vector(f"{path}.weight")
        if weight is not None and block.weight_offset:
            weight = weight + np.float32(block.weight_offset)
        bias = self.weights.vector(f"{path}.bias")
        self.builder.norm(x, y, block.d_model, count, block.kind == "layer", block.eps, weight, bias)

    def rotate(self, at: Place, rope: Rope, count: int, width: int) -> None:
        """Rotate `count` heads of `width` channels, in place."""
        if rope not in self.ropes:
            self.ropes.append(rope)
        self.builder.rotate(at, count, width, self.ropes.index(rope), rope.layout == "interleaved")
