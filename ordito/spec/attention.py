"""Attention in all forms of the supported families. The letters of shapes are those of `ordito.spec.blocks`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ordito.errors import SpecError
from ordito.spec.blocks import Norm, SameWidth, linear
from ordito.spec.node import Count, Node, Shape, Size
from ordito.spec.rope import Rope


@dataclass(frozen=True, kw_only=True)
class Temperature(Node):
    """A factor on queries that grows with their position p, so that attention stays sharp over long contexts."""

    def factor(self, position: int) -> float:
        """The factor at one position."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SteppedTemperature(Temperature):
    """1 + strength * ln(1 + floor((p + offset) / period)): Llama 4 (offset 1) and Ministral 3 (offset 0)."""

    strength: float
    period: Size
    offset: Count = 0

    def factor(self, position: int) -> float:
        """The factor at one position."""
        return 1 + self.strength * math.log(1 + (position + self.offset) // self.period)


@dataclass(frozen=True, kw_only=True)
class LogTemperature(Temperature):
    """max(1, ln(p + 1) / ln(length)), `length` being the training length: Qwen 1's LogN scaling."""

    length: Size

    def factor(self, position: int) -> float:
        """The factor at one position."""
        return max(1.0, math.log(position + 1) / math.log(self.length))


@dataclass(frozen=True, kw_only=True)
class RelativeBias(Node):
    """A learned bias on the scores for each head and bucket of distances i - j (T5, arXiv:1910.10683, section 2.1).

    Half of the buckets hold one distance each, the others grow logarithmically up to `max_distance`. In bidirectional layers
    half of all buckets are for earlier keys and half for later ones. The first layer of a stack owns the table (buckets, N),
    which the others share (`shared`).
    """

    n_buckets: Size
    max_distance: Size
    shared: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockSparse(Node):
    """Block-sparse attention (Phi-3-small, arXiv:2404.14219, section 2), in blocks of `block` positions.

    In head n, queries of block t see keys of block s <= t iff t - s < `local`, or (s + n + 1) mod `stride` = 0: the newest
    blocks, and every `stride`-th of all, with another offset in each head.
    """

    block: Size
    local: Size
    stride: Size


@dataclass(frozen=True, kw_only=True)
class Attention(SameWidth):
    """Multi-head, grouped-query (G < N) or multi-query (G = 1) attention (arXiv:1706.03762, 2305.13245, 1911.02150).

    scores = softcap(scale * q k), softcap(s) = c tanh(s / c); query i sees key j iff all of these that are set hold:
    `causal`: j <= i; `window`: |i - j| < window (the token itself included); `chunk`: i // chunk == j // chunk;
    `block_sparse`, a further mask.

    - `sinks`: a learned logit for each head is added to each row of the softmax, and its probability dropped.
    - `rope`, or a `relative_bias` on the scores, gives the positions; with neither there are none (NoPE).
    - `temperature` multiplies queries by a factor that depends on their position.
    - `bias` lists the projections that have one.
    - `q_norm` and `k_norm` are applied to each head (QK-norm), before rope, or after it if `norm_after_rope`.
    - `cross`: keys and values are projections of the encoder's states, all of which every query sees.
    """

    name: str = "attention"
    n_heads: Size
    n_kv_heads: Size
    head_dim: Size
    scale: float
    bias: tuple[Literal["q", "k", "v", "o"], ...] = ()
    causal: bool = True
    window: Size | None = None
    chunk: Size | None = None
    softcap: float | None = None
    sinks: bool = False
    rope: Rope | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    norm_after_rope: bool = False
    temperature: Temperature | None = None
    relative_bias: RelativeBias | None = None
    block_sparse: BlockSparse | None = None
    cross: bool = False

    def check(self) -> None:
        """Raise `SpecError` if heads, norms, rope and masks do not fit together."""
        if self.n_heads % self.n_kv_heads:
            raise SpecError(f"{self.name}: got {self.n_heads} heads on {self.n_kv_heads} key-value heads, expected a multiple")
        for norm in (self.q_norm, self.k_norm):
            if norm is not None and norm.d_model != self.head_dim:
                raise SpecError(f"{self.name}.{norm.name}: got width {norm.d_model}, expected head_dim {self.head_dim}")
        if self.rope is not None and self.rope.dim > self.head_dim:
            raise SpecError(f"{self.name}: rope turns {self.rope.dim} channels, expected at most head_dim {self.head_dim}")
        if self.softcap is not None and self.softcap <= 0:
            raise SpecError(f"{self.name}.softcap: got {self.softcap}, expected more than zero, or None")
        if (bias := self.relative_bias) is not None:
            exact = bias.n_buckets // (2 if self.causal else 4)  # the others are spaced by logarithms of distance / exact
            if not 0 < exact < bias.max_distance:
                raise SpecError(
                    f"{self.name}.relative_bias: got {bias.n_buckets} buckets up to the distance {bias.max_distance}, of which "
                    f"{exact} hold one distance each: expected at least one, and fewer than the greatest distance"
                )
        if self.cross and (self.causal or self.window or self.chunk or self.rope or self.block_sparse):
            raise SpecError(f"{self.name}: cross-attention sees the whole source, so it takes no mask and no rope")

    @property
    def span(self) -> int | None:
        """How many keys a query sees at most, its own token's included, or None if there is no limit."""
        return self.window or self.chunk

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """q (N*H, D), k and v (G*H, D), o (D, N*H), biases, norms, sinks (N,), relative bias (buckets, N)."""
        heads, groups = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes = {"q": (heads, self.d_model), "k": (groups, self.d_model), "v": (groups, self.d_model)}
        for projection, (d_out, d_in) in {**shapes, "o": (self.d_model, heads)}.items():
            yield from linear(f"{self.name}.{projection}", d_out, d_in, projection in self.bias)
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                yield from ((f"{self.name}.{name}", shape) for name, shape in norm.tensors())
        if self.sinks:
            yield f"{self.name}.sinks", (self.n_heads,)
        if self.relative_bias is not None and not self.relative_bias.shared:
            yield f"{self.name}.relative_bias.weight", (self.relative_bias.n_buckets, self.n_heads)


@dataclass(frozen=True, kw_only=True)
class LatentAttention(SameWidth):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values of all heads come from
    one cached latent of width `kv_rank` and one shared rotary key of width `rope_dim`.

    q = W_q x, or W_up norm(W_down x) if `q_rank` is set; each head's query is [nope ‖ rope]. `kv_down` gives
    [latent ‖ rotary key]; `k_up` and `v_up` map the normalised latent to the non-rotary part of each head's key and to its
    value. `bias` is that of the down-projections of x and of the output projection.
    """

    name: str = "attention"
    n_heads: Size
    q_rank: Size | None = None
    kv_rank: Size
    nope_dim: Size
    rope: Rope
    v_dim: Size
    scale: float
    norm_eps: float = 1e-6
    bias: bool = False

    @property
    def span(self) -> None:
        """None: a query sees all earlier keys."""

    @property
    def q_dim(self) -> int:
        """The width of a head's query: [nope ‖ rope]."""
        return self.nope_dim + self.rope.dim

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """q, or q_down, q_norm and q_up; kv_down (R + rope, D), kv_norm (R,), k_up (N * nope, R), v_up (N * v, R), o."""
        name, q_out = self.name, self.n_heads * self.q_dim
        if self.q_rank is None:
            yield f"{name}.q.weight", (q_out, self.d_model)
        else:
            yield from linear(f"{name}.q_down", self.q_rank, self.d_model, self.bias)
            yield f"{name}.q_norm.weight", (self.q_rank,)
            yield f"{name}.q_up.weight", (q_out, self.q_rank)
        yield from linear(f"{name}.kv_down", self.kv_rank + self.rope.dim, self.d_model, self.bias)
        yield f"{name}.kv_norm.weight", (self.kv_rank,)
        yield f"{name}.k_up.weight", (self.n_heads * self.nope_dim, self.kv_rank)
        yield f"{name}.v_up.weight", (self.n_heads * self.v_dim, self.kv_rank)
        yield from linear(f"{name}.o", self.d_model, self.n_heads * self.v_dim, self.bias)
