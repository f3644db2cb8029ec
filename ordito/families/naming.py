"""Names of tensors in published formats: one table for each family and format, which serves both import and export.

"Ours" are the canonical names and arrays of a spec, "theirs" those of the format. A table maps our path of a module to
theirs, `{}` standing for the layer's number: `"layers.{}.attention.q": "model.layers.{}.self_attn.q_proj"`. The parameter's
name (`.weight`, `.bias`) is the same on both sides; a key or value may also be the whole name of a tensor. Two forms are not
one to one:

| written as | their tensor |
| --- | --- |
| `("...q", "...k", "...v"): "...qkv"` | is fused: ours concatenated along the rows |
| `"...experts.up": "...experts.{}.up_proj"` | is that of one expert: ours has all of them, stacked on a first axis |

Where the arrays differ too, a `Transform` says how: `As("...c_fc", Transposed())` for the whole of their tensor,
`Names.transform` for one tensor of ours. Each has an inverse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ordito.errors import SpecError
from ordito.spec import Shape, Spec

QKV = ("layers.{}.attention.q", "layers.{}.attention.k", "layers.{}.attention.v")
GATE_UP = ("layers.{}.mlp.gate", "layers.{}.mlp.up")
"""The maps that published formats often fuse."""


class Transform:
    """A conversion of their array to ours, with its inverse. Arrays need reshape, swapaxes, indexing and arithmetic only."""

    def ours(self, array: Any) -> Any:
        """Their array as ours."""
        raise NotImplementedError

    def theirs(self, array: Any) -> Any:
        """Our array as theirs."""
        raise NotImplementedError

    def shape(self, ours: Shape) -> Shape:
        """The shape of their array, from that of ours."""
        return ours


@dataclass(frozen=True)
class Shifted(Transform):
    """Theirs is ours plus the constant `by`: GGUF stores Gemma's norm weights as 1 + w."""

    by: float

    def ours(self, array: Any) -> Any:
        """their - by."""
        return array - array.dtype.type(self.by)

    def theirs(self, array: Any) -> Any:
        """our + by."""
        return array + array.dtype.type(self.by)


@dataclass(frozen=True)
class Reshaped(Transform):
    """The same elements in another shape: their gate (D,) is our map (1, D)."""

    our_shape: Shape
    their_shape: Shape

    def ours(self, array: Any) -> Any:
        """`our_shape`."""
        return array.reshape(self.our_shape)

    def theirs(self, array: Any) -> Any:
        """`their_shape`."""
        return array.reshape(self.their_shape)

    def shape(self, ours: Shape) -> Shape:
        """`their_shape`."""
        return self.their_shape


@dataclass(frozen=True)
class Transposed(Transform):
    """Their matrices are (..., in, out), ours (..., out, in): GPT-2's Conv1D. Vectors are left alone."""

    def ours(self, array: Any) -> Any:
        """(..., in, out) -> (..., out, in)."""
        return array.swapaxes(-1, -2) if array.ndim > 1 else array

    def theirs(self, array: Any) -> Any:
        """(..., out, in) -> (..., in, out)."""
        return self.ours(array)

    def shape(self, ours: Shape) -> Shape:
        """The last two sizes swapped."""
        return (*ours[:-2], ours[-1], ours[-2]) if len(ours) > 1 else ours


@dataclass(frozen=True)
class Permuted(Transform):
    """The same rows in another order: our row i is their row `order()[i]`.

    `order` is a function, called only when there are rows to permute: a header may claim more rows than memory could list.
    """

    order: Callable[[], Sequence[int]]

    def ours(self, array: Any) -> Any:
        """ours[i] = theirs[order[i]]."""
        return array[list(self.order())]

    def theirs(self, array: Any) -> Any:
        """theirs[order[i]] = ours[i]."""
        order = self.order()
        inverse = [0] * len(order)
        for ours, theirs in enumerate(order):
            inverse[theirs] = ours
        return array[inverse]


@dataclass(frozen=True)
class Interleaved(Transform):
    """Theirs alternates two halves that ours concatenates, along `axis` and in each of `heads` groups: (n, 2) -> (2, n).

    gpt-oss alternates the rows of gate and up (`heads` = 1); GGUF's `llama` has the rotary pairs of each head at channels
    (2i, 2i + 1), ours are at (i, i + H/2).
    """

    heads: int = 1
    axis: int = 0

    def ours(self, array: Any) -> Any:
        """(..., heads, n, 2, ...) -> (..., heads, 2, n, ...)."""
        return self._swapped(array, (-1, 2))

    def theirs(self, array: Any) -> Any:
        """(..., heads, 2, n, ...) -> (..., heads, n, 2, ...)."""
        return self._swapped(array, (2, -1))

    def _swapped(self, array: Any, pair: tuple[int, int]) -> Any:
        shape = array.shape
        split = array.reshape(*shape[: self.axis], self.heads, *pair, *shape[self.axis + 1 :])
        return split.swapaxes(self.axis + 1, self.axis + 2).reshape(shape)


@dataclass(frozen=True, init=False)
class Composed(Transform):
    """Several transforms, applied to theirs in the order given, and to ours in reverse."""

    parts: tuple[Transform, ...]

    def __init__(self, *parts: Transform) -> None:
        object.__setattr__(self, "parts", parts)

    def ours(self, array: Any) -> Any:
        """The first part first."""
        for part in self.parts:
            array = part.ours(array)
        return array

    def theirs(self, array: Any) -> Any:
        """The last part first."""
        for part in reversed(self.parts):
            array = part.theirs(array)
        return array

    def shape(self, ours: Shape) -> Shape:
        """The shape after all parts, the last one first."""
        for part in reversed(self.parts):
            ours = part.shape(ours)
        return ours


@dataclass(frozen=True)
class As:
    """Their name, and the transform of the whole of their tensor."""

    name: str
    transform: Transform


@dataclass(frozen=True)
class Binding:
    """Tensors of ours and theirs that hold the same weights.

    One of ours and one of theirs; or several of ours, which theirs has fused along `axis`; or one of ours, of which theirs
    are the slices along a first axis (`stacked`). `shapes` are those of ours. `whole` transforms each of theirs, and
    `each[i]` its part that is `ours[i]` (None: identical).
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    stacked: bool = False
    axis: int = 0
    whole: Transform | None = None
    each: tuple[Transform | None, ...] = (None,)

    @property
    def plain(self) -> bool:
        """Whether ours and theirs are one and the same array."""
        return self.whole is None and self.each == (None,) and len(self.ours) == 1 and not self.stacked

    @cached_property
    def fused_shape(self) -> Shape:
        """The shape of all of ours, fused (or stacked), before `whole` is applied."""
        inner = [t.shape(shape) if t else shape for t, shape in zip(self.each, self.shapes, strict=True)]
        total = sum(shape[self.axis] for shape in inner) if inner[0] else 0
        return (*inner[0][: self.axis], total, *inner[0][self.axis + 1 :]) if inner[0] else ()

    @cached_property
    def their_shape(self) -> Shape:
        """The shape of each of theirs."""
        shape = self.fused_shape[1:] if self.stacked else self.fused_shape
        return self.whole.shape(shape) if self.whole else shape


@dataclass(frozen=True)
class Names:
    """A family's table of names in one format.

    - `table`: our module or tensor, or a tuple of fused ones -> theirs.
    - `transform(spec, name)`: the transform of our tensor of that name, if any.
    - `aliases`: (pattern, replacement) pairs that normalise variant spellings in published files to those of the table.
    - `ignored`: pattern -> the reason why a tensor that matches it need not be read.
    - `offsets`: our stack -> the number that its first layer has in theirs, if not 0.
    """

    table: Mapping[str | tuple[str, ...], str | As]
    transform: Callable[[Spec, str], Transform | None] = lambda spec, name: None
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    offsets: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def _keys(self) -> dict[str, str | tuple[str, ...]]:
        return {part: key for key in self.table for part in (key if isinstance(key, tuple) else (key,))}

    def bindings(self, spec: Spec) -> list[Binding]:
        """The bindings of all tensors of `spec`. Raises `SpecError` if the format has no name for one of them."""
        return list(self._bindings(spec, spec.tensors()))

    def _bindings(self, spec: Spec, tensors: Mapping[str, Shape]) -> Iterator[Binding]:
        done: set[str] = set()
        for name, shape in tensors.items():
            if name in done:
                continue
            key, number, suffix = self._find(name)
            parts = key if isinstance(key, tuple) else (key,)
            ours = tuple(part.format(number) + suffix for part in parts)
            number = self._their_number(name, number)
            if lacking := [other for other in ours if other not in tensors]:
                raise SpecError(f"this format keeps {name!r} together with {lacking[0]!r}, which the model does not have")
            done.update(ours)
            value = self.table[key]
            theirs = value.name if isinstance(value, As) else value
            experts = theirs.count("{}") > 1
            numbers = [(number, e) for e in range(shape[0])] if experts else [(number,)]
            yield Binding(
                ours=ours,
                theirs=tuple(theirs.format(*n) + suffix for n in numbers),
                shapes=tuple(tensors[other] for other in ours),
                stacked=experts,
                axis=1 if ".experts." in name else 0,
                whole=value.transform if isinstance(value, As) else None,
                each=tuple(self.transform(spec, other) for other in ours),
            )

    def _find(self, name: str) -> tuple[str | tuple[str, ...], str, str]:
        """The key in the table of our tensor, its layer's number, and the parameter's name behind the key (`.weight`)."""
        module, _, parameter = name.rpartition(".")
        for candidate, suffix in ((name, ""), (module, f".{parameter}")):
            number = re.search(r"(?<=\.)\d+(?=\.)", candidate)
            pattern = candidate[: number.start()] + "{}" + candidate[number.end() :] if number else candidate
            for spelling in (candidate, pattern):
                if spelling in self._keys:
                    return self._keys[spelling], number[0] if number else "", suffix
        raise SpecError(f"this format has no name for the tensor {name!r}")

    def _their_number(self, name: str, number: str) -> str:
        offset = self.offsets.get(name.split(".")[0], 0)
        return str(int(number) + offset) if number else number

    def theirs(self, name: str) -> str:
        """Their name of our tensor (for stacked experts, of the first one). Raises `SpecError` if there is none."""
        key, number, suffix = self._find(name)
        number, value = self._their_number(name, number), self.table[key]
        return (value.name if isinstance(value, As) else value).format(number, 0) + suffix

    def usual(self, name: str) -> str:
        """A name in a file, normalised by `aliases` to the spelling of the table."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def why_ignored(self, name: str) -> str | None:
        """The reason why a tensor need not be read, or None if there is none."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)
