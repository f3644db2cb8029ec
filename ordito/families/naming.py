"""Names of tensors in other formats: one table for a family and a format, read in both directions.

A table maps our path of a module to theirs, `{}` standing for the number of a layer:
`"layers.{}.attention.q": "model.layers.{}.self_attn.q_proj"`. What comes after the module (`.weight`, `.bias`) is the same
on both sides; a key or value that is a whole tensor name is taken as it stands. Two forms say that tensors do not meet one
for one:

| written as | their tensor |
| --- | --- |
| `("...q", "...k", "...v"): "...qkv"` | holds ours one below the other (fused) |
| `"...experts.up": "...experts.{}.up_proj"` | is that of one expert: ours are all of them, stacked on a first axis |

Where the numbers differ too, a transform says how: `As("...c_fc", Transposed())` for theirs as a whole, `Names.transform` for
one of ours. Each has an inverse, so the table imports and exports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ordito.errors import SpecError
from ordito.spec import Shape, Spec


class Transform:
    """A change between their array and ours, with its inverse. Arrays need reshape, swapaxes and arithmetic only."""

    def ours(self, array: Any) -> Any:
        """Their array as ours."""
        raise NotImplementedError

    def theirs(self, array: Any) -> Any:
        """Our array as theirs."""
        raise NotImplementedError

    def shape(self, ours: Shape) -> Shape:
        """The shape of theirs."""
        return ours


@dataclass(frozen=True)
class Shifted(Transform):
    """They store `by` more than we do: GGUF stores Gemma's norm weights as 1 + w."""

    by: float

    def ours(self, array: Any) -> Any:
        """their - by."""
        return array - array.dtype.type(self.by)

    def theirs(self, array: Any) -> Any:
        """our + by."""
        return array + array.dtype.type(self.by)


@dataclass(frozen=True)
class Reshaped(Transform):
    """They count the same numbers in another shape: a gate (D,) that is our map (1, D)."""

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
    """They store matrices (..., in, out), we (..., out, in): GPT-2's Conv1D. Vectors are left alone."""

    def ours(self, array: Any) -> Any:
        """(..., in, out) -> (..., out, in)."""
        return array.swapaxes(-1, -2) if array.ndim > 1 else array

    def theirs(self, array: Any) -> Any:
        """(..., out, in) -> (..., in, out)."""
        return self.ours(array)

    def shape(self, ours: Shape) -> Shape:
        """The last two sizes change places."""
        return (*ours[:-2], ours[-1], ours[-2]) if len(ours) > 1 else ours


@dataclass(frozen=True)
class Permuted(Transform):
    """They have the same rows in another order: our row i is their row `order()[i]`.

    It is made when rows are there to be put in order: a header may claim more of them than there is memory.
    """

    order: Callable[[], Sequence[int]]

    def ours(self, array: Any) -> Any:
        """Their rows in our order."""
        return array[list(self.order())]

    def theirs(self, array: Any) -> Any:
        """Our rows in theirs."""
        order = self.order()
        inverse = [0] * len(order)
        for ours, theirs in enumerate(order):
            inverse[theirs] = ours
        return array[inverse]


@dataclass(frozen=True)
class Interleaved(Transform):
    """They alternate what we keep one below the other along `axis`, in groups of `heads`: (heads, n, 2) -> (heads, 2, n).

    gpt-oss alternates the rows of gate and up (`heads` = 1); rope in GGUF's `llama` pairs channels (2i, 2i + 1) of each
    head, where we pair (i, i + H/2).
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
class Both(Transform):
    """Several transforms, from theirs to ours in the order given."""

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
        """Through all parts, the last first."""
        for part in reversed(self.parts):
            ours = part.shape(ours)
        return ours


@dataclass(frozen=True)
class As:
    """Their name and the change of the whole of their tensor."""

    name: str
    transform: Transform


@dataclass(frozen=True)
class Binding:
    """Tensors that hold the same numbers under both names.

    Either one of ours and one of theirs, or several of ours that theirs holds one below the other along `axis` (`shapes`
    are those of ours), or one of ours that `stacked` theirs make. `whole` changes each of theirs; `each` has the change of
    each of ours (None: the same numbers).
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
        """Whether ours is theirs, number for number."""
        return self.whole is None and self.each == (None,) and len(self.ours) == 1 and not self.stacked

    @cached_property
    def fused_shape(self) -> Shape:
        """The shape of ours together, before any change of the whole."""
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

    `table`: our module or tensor, or a tuple of those that are fused -> theirs. `transform(spec, our_tensor_name)`: the
    change of that tensor's numbers, if any. `aliases`: (pattern, replacement) pairs that bring the spellings of a name in
    the wild to the one in the table. `ignored`: pattern -> why a tensor that matches it need not be read. `first`: where
    their numbers of a stack of ours begin, if not with 0.
    """

    table: Mapping[str | tuple[str, ...], str | As]
    transform: Callable[[Spec, str], Transform | None] = lambda spec, name: None
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: Mapping[str, str] = field(default_factory=dict)
    first: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def _keys(self) -> dict[str, str | tuple[str, ...]]:
        return {part: key for key in self.table for part in (key if isinstance(key, tuple) else (key,))}

    def bindings(self, spec: Spec) -> list[Binding]:
        """The bindings of every tensor of `spec`. Raises `SpecError` if the format has no name for one."""
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
        """The table's key for our tensor, its layer's number, and what follows the module's name."""
        module, _, parameter = name.rpartition(".")
        for candidate, suffix in ((name, ""), (module, f".{parameter}")):
            number = re.search(r"(?<=\.)\d+(?=\.)", candidate)
            pattern = candidate[: number.start()] + "{}" + candidate[number.end() :] if number else candidate
            for spelling in (candidate, pattern):
                if spelling in self._keys:
                    return self._keys[spelling], number[0] if number else "", suffix
        raise SpecError(f"this format has no name for the tensor {name!r}")

    def _their_number(self, name: str, number: str) -> str:
        first = self.first.get(name.split(".")[0], 0)
        return str(int(number) + first) if number else number

    def theirs(self, name: str) -> str:
        """Their name of our tensor (of an expert's: the first's). Raises `SpecError` if there is none."""
        key, number, suffix = self._find(name)
        number, value = self._their_number(name, number), self.table[key]
        return (value.name if isinstance(value, As) else value).format(number, 0) + suffix

    def usual(self, name: str) -> str:
        """The spelling of the table for a name as a file spells it."""
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name

    def why_ignored(self, name: str) -> str | None:
        """The reason why a tensor need not be read, or None if there is none."""
        return next((why for pattern, why in self.ignored.items() if re.fullmatch(pattern, name)), None)
