"""The leaves of a spec: the few kinds of block that every published language model is made of.

Letters of shapes, here and everywhere: `B` batch, `T` query tokens, `S` key positions, `D` model width, `N` query heads,
`G` key-value heads, `H` head size, `F` feed-forward width, `E` experts, `K` experts chosen, `V` vocabulary, `R` low rank.
Weights of linear maps are stored (out, in).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ordito.errors import SpecError
from ordito.spec.node import Block, Count, Node, Shape, Size
from ordito.spec.rope import Rope

Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_sigmoid", "relu", "tanh"]
"""`gelu` is the exact form (erf), `gelu_tanh` Hendrycks' tanh form, `gelu_sigmoid` x * sigmoid(1.702 x)."""


def linear(name: str, d_out: int, d_in: int, bias: bool) -> Iterator[tuple[str, Shape]]:
    """The tensors of a linear map y = W x (+ b)."""
    yield f"{name}.weight", (d_out, d_in)
    if bias:
        yield f"{name}.bias", (d_out,)


@dataclass(frozen=True, kw_only=True)
class _SameWidth(Block):
    """A leaf whose input and output have one width."""

    name: str
    d_model: Size

    def width_after(self, width: int | None) -> int | None:
        """`d_model`, if that is what comes in."""
        if width != self.d_model:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_model {self.d_model}")
        return width


@dataclass(frozen=True, kw_only=True)
class Embedding(Block):
    """Token ids to vectors: scale * tokens[id] (+ positions[position]) (+ types[0]).

    `n_positions` rows of learned absolute positions (0: none); `n_types` rows of token types, of which every token takes
    the first (BERT, where one text is embedded at a time). `scale` is rounded to the weights' own type before it
    multiplies (Gemma).
    """

    name: str = "embedding"
    vocab_size: Size
    d_model: Size
    scale: float = 1.0
    n_positions: Count = 0
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
class Norm(_SameWidth):
    """Normalisation over the last axis.

    `rms`: x / sqrt(mean(x^2) + eps) (arXiv:1910.07467); `layer`: (x - mean) / sqrt(var + eps) (arXiv:1607.06450).
    The result is multiplied by (`weight_offset` + w) if there is a weight, and a bias added if there is one. Statistics
    are taken in fp32; `scale_in_fp32` says whether the multiplication is too (Gemma), or comes after the cast back (LLaMA).
    """

    name: str = "norm"
    kind: Literal["rms", "layer"]
    eps: float
    weight: bool = True
    weight_offset: float = 0.0
    bias: bool = False
    scale_in_fp32: bool = False

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (D,) and bias (D,), where there are any."""
        if self.weight:
            yield f"{self.name}.weight", (self.d_model,)
        if self.bias:
            yield f"{self.name}.bias", (self.d_model,)


@dataclass(frozen=True, kw_only=True)
class Attention(_SameWidth):
    """Multi-head, grouped-query (G < N) or multi-query (G = 1) attention (arXiv:1706.03762, 2305.13245, 1911.02150).

    scores = softcap(scale * q k), softcap(s) = c tanh(s / c); query i sees key j iff all that is set holds:
    `causal`: j <= i; `window`: |i - j| < window (the token itself included); `chunk`: i // chunk == j // chunk.
    `sinks` adds one learned logit a head to each row of the softmax, whose probability is then dropped. Without `rope`
    the layer has no positions. `bias` lists the projections that have one. Norms on q and k act on each head, before rope
    or, if `norm_after_rope`, after it.
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

    def check(self) -> None:
        """Raise `SpecError` where heads, norms or rope do not fit together."""
        if self.n_heads % self.n_kv_heads:
            raise SpecError(f"{self.name}: got {self.n_heads} heads on {self.n_kv_heads} key-value heads, expected a multiple")
        for norm in (self.q_norm, self.k_norm):
            if norm is not None and norm.d_model != self.head_dim:
                raise SpecError(f"{self.name}.{norm.name}: got width {norm.d_model}, expected head_dim {self.head_dim}")
        if self.rope is not None and self.rope.dim > self.head_dim:
            raise SpecError(f"{self.name}: rope turns {self.rope.dim} channels, expected at most head_dim {self.head_dim}")
        if self.softcap is not None and self.softcap <= 0:
            raise SpecError(f"{self.name}.softcap: got {self.softcap}, expected more than zero, or None")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """q (N*H, D), k and v (G*H, D), o (D, N*H), biases, norms, sinks (N,)."""
        heads, groups = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        shapes = {"q": (heads, self.d_model), "k": (groups, self.d_model), "v": (groups, self.d_model)}
        for projection, (d_out, d_in) in {**shapes, "o": (self.d_model, heads)}.items():
            yield from linear(f"{self.name}.{projection}", d_out, d_in, projection in self.bias)
        for norm in (self.q_norm, self.k_norm):
            if norm is not None:
                yield from ((f"{self.name}.{name}", shape) for name, shape in norm.tensors())
        if self.sinks:
            yield f"{self.name}.sinks", (self.n_heads,)


@dataclass(frozen=True, kw_only=True)
class LatentAttention(_SameWidth):
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): keys and values of all heads come from
    one cached latent of width `kv_rank` and one shared rotary key of width `rope_dim`.

    q = W_q x, or W_up norm(W_down x) if `q_rank` is set; each head's query is [nope ‖ rope]. `kv_down` gives
    [latent ‖ rotary key]; `kv_up` maps the normed latent to each head's [key nope ‖ value].
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

    @property
    def q_dim(self) -> int:
        """The width of a head's query: [nope ‖ rope]."""
        return self.nope_dim + self.rope.dim

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """q, or q_down, q_norm and q_up; kv_down (R + rope, D), kv_norm (R,), kv_up (N * (nope + v), R), o."""
        name, q_out = self.name, self.n_heads * self.q_dim
        if self.q_rank is None:
            yield f"{name}.q.weight", (q_out, self.d_model)
        else:
            yield f"{name}.q_down.weight", (self.q_rank, self.d_model)
            yield f"{name}.q_norm.weight", (self.q_rank,)
            yield f"{name}.q_up.weight", (q_out, self.q_rank)
        yield f"{name}.kv_down.weight", (self.kv_rank + self.rope.dim, self.d_model)
        yield f"{name}.kv_norm.weight", (self.kv_rank,)
        yield f"{name}.kv_up.weight", (self.n_heads * (self.nope_dim + self.v_dim), self.kv_rank)
        yield f"{name}.o.weight", (self.d_model, self.n_heads * self.v_dim)


@dataclass(frozen=True, kw_only=True)
class FeedForward(_SameWidth):
    """down(act(up(x))), or, if `gated`, down(act(gate(x)) * up(x)) (arXiv:2002.05202)."""

    name: str = "mlp"
    d_ff: Size
    activation: Activation
    gated: bool
    bias: bool = False

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """gate and up (F, D), down (D, F), biases."""
        for projection in ("gate", "up") if self.gated else ("up",):
            yield from linear(f"{self.name}.{projection}", self.d_ff, self.d_model, self.bias)
        yield from linear(f"{self.name}.down", self.d_model, self.d_ff, self.bias)


@dataclass(frozen=True, kw_only=True)
class Router(Node):
    """Who of E experts works for a token, and with what weight.

    `softmax` or `sigmoid` of the router's logits gives the scores; with `choose_first` the softmax runs over the chosen
    logits only (gpt-oss). The best `top_k` are chosen by score, plus a learned bias that counts for the choice alone if
    `choice_bias` is set (DeepSeek-V3). With `n_groups` > 1 only experts of the best `top_groups` groups are candidates; a
    group's score is its best (`max`, DeepSeek-V2) or the sum of its two best (`top2`, V3). `renormalise` divides the chosen
    weights by their sum; all are multiplied by `scale`. `bias` is the router's own.
    """

    n_experts: Size
    top_k: Size
    score: Literal["softmax", "sigmoid"] = "softmax"
    choose_first: bool = False
    renormalise: bool = False
    scale: float = 1.0
    bias: bool = False
    choice_bias: bool = False
    n_groups: Size = 1
    top_groups: Size = 1
    group_score: Literal["max", "top2"] = "max"

    def check(self) -> None:
        """Raise `SpecError` for more chosen than there are."""
        if self.top_k > self.n_experts:
            raise SpecError(f"Router.top_k: got {self.top_k} of {self.n_experts} experts, expected at most all")
        if self.n_experts % self.n_groups or self.top_groups > self.n_groups:
            raise SpecError(
                f"Router: got {self.top_groups} of {self.n_groups} groups of {self.n_experts} experts, expected equal groups"
            )


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(_SameWidth):
    """Experts that a router chooses for each token, and one that always works: y = shared(x) + sum_k w_k expert_k(x).

    `shared_gate` multiplies the shared expert by sigmoid(g x) (Qwen1.5-MoE). `weigh` says whether a weight multiplies the
    expert's output or its input (Llama 4). Sources: arXiv:1701.06538, 2101.03961, 2401.04088, 2401.06066.
    """

    name: str = "mlp"
    router: Router
    expert: FeedForward
    shared: FeedForward | None = None
    shared_gate: bool = False
    weigh: Literal["input", "output"] = "output"

    def check(self) -> None:
        """Raise `SpecError` if an expert has another width than the block, or a gate nothing to gate."""
        for expert in (self.expert, self.shared):
            if expert is not None and expert.d_model != self.d_model:
                raise SpecError(f"{self.name}: an expert has width {expert.d_model}, expected d_model {self.d_model}")
        if self.shared_gate and self.shared is None:
            raise SpecError(f"{self.name}: shared_gate without a shared expert")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """router (E, D) and its biases (E,), the experts' tensors stacked on a first axis E, the shared expert's."""
        n = self.router.n_experts
        yield from linear(f"{self.name}.router", n, self.d_model, self.router.bias)
        if self.router.choice_bias:
            yield f"{self.name}.router.choice_bias", (n,)
        for name, shape in self.expert.tensors():
            yield f"{self.name}.experts.{name.removeprefix(self.expert.name + '.')}", (n, *shape)
        if self.shared is not None:
            for name, shape in self.shared.tensors():
                yield f"{self.name}.shared.{name.removeprefix(self.shared.name + '.')}", shape
        if self.shared_gate:
            yield f"{self.name}.shared_gate.weight", (1, self.d_model)


@dataclass(frozen=True, kw_only=True)
class Dense(Block):
    """One linear map and, if named, an activation: BERT's pooler, the transform before a masked-language head."""

    name: str
    d_in: Size
    d_out: Size
    bias: bool = False
    activation: Activation | None = None

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (d_out, d_in) and bias (d_out,)."""
        return linear(self.name, self.d_out, self.d_in, self.bias)

    def width_after(self, width: int | None) -> int | None:
        """`d_out`, if `d_in` comes in."""
        if width != self.d_in:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_in {self.d_in}")
        return self.d_out


@dataclass(frozen=True, kw_only=True)
class Head(Block):
    """Hidden states to logits over the vocabulary: softcap(W h + b). A `tied` head's W is the token embedding itself."""

    name: str = "head"
    d_model: Size
    vocab_size: Size
    tied: bool
    bias: bool = False
    softcap: float | None = None

    def check(self) -> None:
        """Raise `SpecError` for a cap that is not above zero."""
        if self.softcap is not None and self.softcap <= 0:
            raise SpecError(f"{self.name}.softcap: got {self.softcap}, expected more than zero, or None")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """weight (V, D) unless tied, bias (V,)."""
        if not self.tied:
            yield f"{self.name}.weight", (self.vocab_size, self.d_model)
        if self.bias:
            yield f"{self.name}.bias", (self.vocab_size,)

    def width_after(self, width: int | None) -> int | None:
        """`vocab_size`, if `d_model` comes in."""
        if width != self.d_model:
            raise SpecError(f"{self.name}: gets width {width}, expected its d_model {self.d_model}")
        return self.vocab_size
