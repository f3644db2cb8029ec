"""How blocks are composed. Where a norm stands is a matter of composition, not a flag.

| shape of a layer | written as |
| --- | --- |
| pre-norm (LLaMA, GPT-2) | `Residual(Chain(norm, attention))`, `Residual(Chain(norm, mlp))` |
| sandwich (Gemma 2, 3) | `Residual(Chain(norm, attention, norm))` |
| post-norm (GPT-1, BERT) | `Chain(Residual(attention), norm)` |
| parallel, shared norm (Phi-1, 2) | `Residual(Chain(norm, Sum(attention, mlp)))` |

Combinators have no tensors of their own, and only `Stack` has a name: the canonical name of a tensor consists of those of its
stack, the layer's number, the leaf and the tensor within it (`layers.3.attention.q.weight`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ordito.errors import SpecError
from ordito.spec.node import Block, Shape


@dataclass(frozen=True, init=False)
class Parts(Block):
    """The base of `Chain` and `Sum`, whose parts are positional arguments: `Chain(norm, attention)`."""

    parts: tuple[Block, ...]

    def __init__(self, *parts: Block) -> None:
        object.__setattr__(self, "parts", parts)
        self.__post_init__()

    def check(self) -> None:
        """Raise `SpecError` if there are no parts."""
        if not self.parts:
            raise SpecError(f"{type(self).__name__}: got no parts, expected at least one")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of the parts, in order."""
        for part in self.parts:
            yield from part.tensors()


@dataclass(frozen=True, init=False)
class Chain(Parts):
    """The parts one after the other: y = f_n(... f_1(x))."""

    def width_after(self, width: int | None) -> int | None:
        """The output width of the last part."""
        for part in self.parts:
            width = part.width_after(width)
        return width


@dataclass(frozen=True, init=False)
class Sum(Parts):
    """The sum of all parts on the same input: y = f_1(x) + ... + f_n(x)."""

    def width_after(self, width: int | None) -> int | None:
        """The output width of all parts, which must be the same."""
        widths = {part.width_after(width) for part in self.parts}
        if len(widths) != 1:
            raise SpecError(f"Sum: got parts of widths {sorted(map(str, widths))}, expected one width")
        return widths.pop()


@dataclass(frozen=True)
class Residual(Block):
    """A residual connection around a block: y = x + f(x)."""

    inner: Block

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of the inner block."""
        return self.inner.tensors()

    def width_after(self, width: int | None) -> int | None:
        """The input's width, which must also be the inner block's output width."""
        after = self.inner.width_after(width)
        if after != width:
            raise SpecError(f"Residual: the inner block turns width {width} into {after}, expected the same width")
        return width


@dataclass(frozen=True, kw_only=True)
class Stack(Block):
    """Numbered layers, one after the other. Each is written out, so that no reader computes `i % n` for a pattern."""

    name: str = "layers"
    layers: tuple[Block, ...]

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of all layers, their names prefixed with `name.number.`."""
        for number, layer in enumerate(self.layers):
            for name, shape in layer.tensors():
                yield f"{self.name}.{number}.{name}", shape

    def width_after(self, width: int | None) -> int | None:
        """The output width of the last layer; an error names the layer."""
        for number, layer in enumerate(self.layers):
            try:
                width = layer.width_after(width)
            except SpecError as error:
                raise SpecError(f"{self.name}.{number}: {error}") from None
        return width
