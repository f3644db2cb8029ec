"""How blocks are put together. Where a norm stands is composition and not a flag.

| shape of a layer | written as |
| --- | --- |
| pre-norm (LLaMA, GPT-2) | `Residual(Chain(norm, attention))`, `Residual(Chain(norm, mlp))` |
| sandwich (Gemma 2, 3) | `Residual(Chain(norm, attention, norm))` |
| post-norm (GPT-1, BERT) | `Chain(Residual(attention), norm)` |
| parallel, shared norm (Phi-1, 2) | `Residual(Chain(norm, Sum(attention, mlp)))` |

Combinators have no tensors of their own and no names, but for `Stack`, which numbers its layers: a tensor's canonical
name is its stack, its layer's number, its block's name and its own (`layers.3.attention.q.weight`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ordito.errors import SpecError
from ordito.spec.node import Block, Shape


@dataclass(frozen=True, init=False)
class Parts(Block):
    """What `Chain` and `Sum` share: parts that stand in the call, as in `Chain(norm, attention)`."""

    parts: tuple[Block, ...]

    def __init__(self, *parts: Block) -> None:
        object.__setattr__(self, "parts", parts)
        self.__post_init__()

    def check(self) -> None:
        """Raise `SpecError` if there is nothing to combine."""
        if not self.parts:
            raise SpecError(f"{type(self).__name__}: got no parts, expected at least one")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of the parts, in order."""
        for part in self.parts:
            yield from part.tensors()


@dataclass(frozen=True, init=False)
class Chain(Parts):
    """One part after the other: y = f_n(... f_1(x))."""

    def width_after(self, width: int | None) -> int | None:
        """The width that the last part gives."""
        for part in self.parts:
            width = part.width_after(width)
        return width


@dataclass(frozen=True, init=False)
class Sum(Parts):
    """All parts on the same input, added: y = f_1(x) + ... + f_n(x)."""

    def width_after(self, width: int | None) -> int | None:
        """The one width that all parts give."""
        widths = {part.width_after(width) for part in self.parts}
        if len(widths) != 1:
            raise SpecError(f"Sum: got parts of widths {sorted(map(str, widths))}, expected one width")
        return widths.pop()


@dataclass(frozen=True)
class Residual(Block):
    """The input and what the inner block makes of it, added: y = x + f(x)."""

    inner: Block

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of the inner block."""
        return self.inner.tensors()

    def width_after(self, width: int | None) -> int | None:
        """The same width: a residual stream cannot change it."""
        after = self.inner.width_after(width)
        if after != width:
            raise SpecError(f"Residual: the inner block turns width {width} into {after}, expected the same width")
        return width


@dataclass(frozen=True, kw_only=True)
class Stack(Block):
    """Numbered layers, one after the other. Each layer is written out: no reader ever computes `i % n`."""

    name: str = "layers"
    layers: tuple[Block, ...]

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of all layers, each behind `name.number.`."""
        for number, layer in enumerate(self.layers):
            for name, shape in layer.tensors():
                yield f"{self.name}.{number}.{name}", shape

    def width_after(self, width: int | None) -> int | None:
        """The width that the last layer gives; an error names the layer."""
        for number, layer in enumerate(self.layers):
            try:
                width = layer.width_after(width)
            except SpecError as error:
                raise SpecError(f"{self.name}.{number}: {error}") from None
        return width
