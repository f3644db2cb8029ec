"""The leaves of a spec: embedding, norm, dense layer and head. Attention and feed-forwards have files of their own.

Letters of shapes, here and everywhere: `B` batch, `T` query tokens, `S` key positions, `D` model width, `N` query heads,
`G` key-value heads, `H` head size, `F` feed-forward width, `E` experts, `K` experts chosen, `V` vocabulary, `R` low rank.
Weights of linear maps are stored (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ordito.errors import SpecError
from ordito.spec.node import Block, Count, Shape, Size

Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_sigmoid", "relu", "tanh"]
"""`gelu` is the exact form (erf), `gelu_tanh` and `gelu_sigmoid`, x * sigmoid(slope x), approximate it (arXiv:1606.08415)."""
GELU_SIGMOID_SLOPE = 1.702
"""The slope with which x * sigmoid(slope x) approximates GELU (arXiv:1606.08415, section 2)."""


def linear(name: str, d_out: int, d_in: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    """The tensors of a linear map y = W x (+ b)."""
    yield f"{name}.weight", (d_out, d_in)
    if bias:
        yield f"{name}.bias", (d_out,)


@dataclass(frozen=True, kw_only=True)
class SameWidth(Block):
    """A leaf whose input and output have the same width."""

    name: str
    d_model: Size

    def width_after(self, width: int | None) -> int | None:
        """`d_model`, if that is the input's width."""
        if width != self.d_model:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_model {self.d_model}")
        return width


@dataclass(frozen=True, kw_only=True)
class Embedding(Block):
    """Token ids to vectors: scale * tokens[id] (+ positions[position]) (+ types[0]).

    There are `n_positions` rows of learned absolute positions (0: none); the first token takes the row `first_position`
    (RoBERTa reserves the rows before it). Of the `n_types` rows of token types every token takes the first (BERT, without
    text pairs). `scale` is rounded to the data type of the weights before it multiplies (Gemma).
    """

    name: str = "embedding"
    vocab_size: Size
    d_model: Size
    scale: float = 1.0
    n_positions: Count = 0
    first_position: Count = 0
    n_types: Count = 0

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """tokens (V, D), positions and types."""
        yield f"{self.name}.tokens.weight", (self.vocab_size, self.d_model)
        if self.n_positions:
            yield f"{self.name}.positions.weight", (self.n_positions, self.d_model)
        if self.n_types:
            yield f"{self.name}.types.weight", (self.n_types, self.d_model)

    def width_after(self, width: int | None) -> int | None:
        """`d_model`; an embedding reads token ids and can only come first."""
        if width is not None:
            raise SpecError(f"{self.name}: gets vectors of width {width}, expected token ids")
        return self.d_model


@dataclass(frozen=True, kw_only=True)
class Norm(SameWidth):
    """Normalisation over the last axis.

    `rms`: x / sqrt(mean(x^2) + eps) (arXiv:1910.07467); `layer`: (x - mean) / sqrt(var + eps) (arXiv:1607.06450).
    The result is multiplied by (`weight_offset` + w) if there is a weight, and a bias added if there is one. It is computed
    in fp32; with `scale_in_fp32` the multiplication is too (Gemma), otherwise it follows the cast back (LLaMA).
    """

    name: str = "norm"
    kind: Literal["rms", "layer"]
    eps: float
    weight: bool = True
    weight_offset: float = 0.0
    bias: bool = False
    scale_in_fp32: bool = False

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (D,) and bias (D,), as far as the norm has them."""
        if self.weight:
            yield f"{self.name}.weight", (self.d_model,)
        if self.bias:
            yield f"{self.name}.bias", (self.d_model,)


@dataclass(frozen=True, kw_only=True)
class Dense(Block):
    """A linear map and, optionally, an activation: BERT's pooler, the transform before a masked-language-model head."""

    name: str
    d_in: Size
    d_out: Size
    bias: bool = False
    activation: Activation | None = None

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (d_out, d_in) and bias (d_out,)."""
        return linear(self.name, self.d_out, self.d_in, self.bias)

    def width_after(self, width: int | None) -> int | None:
        """`d_out`, if the input's width is `d_in`."""
        if width != self.d_in:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_in {self.d_in}")
        return self.d_out


@dataclass(frozen=True, kw_only=True)
class Head(Block):
    """Hidden states to logits over the vocabulary: softcap(scale * W h + b), softcap(z) = c tanh(z / c).

    A `tied` head's W is the token embedding. The logits of `unused` ids, which stand for no token, are minus infinity.
    """

    name: str = "head"
    d_model: Size
    vocab_size: Size
    tied: bool
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    unused: tuple[Count, ...] = ()

    def check(self) -> None:
        """Raise `SpecError` for a cap that is not above zero, or an unused id beyond the vocabulary."""
        if any(id >= self.vocab_size for id in self.unused):
            raise SpecError(f"{self.name}.unused: got the id {max(self.unused)}, expected ids below {self.vocab_size}")
        if self.softcap is not None and self.softcap <= 0:
            raise SpecError(f"{self.name}.softcap: got {self.softcap}, expected more than zero, or None")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (V, D) unless tied, bias (V,)."""
        if not self.tied:
            yield f"{self.name}.weight", (self.vocab_size, self.d_model)
        if self.bias:
            yield f"{self.name}.bias", (self.vocab_size,)

    def width_after(self, width: int | None) -> int | None:
        """`vocab_size`, if the input's width is `d_model`."""
        if width != self.d_model:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_model {self.d_model}")
        return self.vocab_size
