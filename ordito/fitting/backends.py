"""What a runtime keeps in memory while a model runs, and how near it comes to what the machine can do."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ordito.accounting import Account
from ordito.errors import OrditoError
from ordito.spec import Attention, FeedForward, LatentAttention, MixtureOfExperts

MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a model takes while it runs.

    `process`: the program and its libraries; `weights`: as the runtime keeps them; `file`: the mapped file, as far as its
    pages were touched; `vocabulary`; `cache`: keys and values; `activations`: what is computed while a prompt is read.
    """

    process: int
    weights: int
    file: int
    vocabulary: int
    cache: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(getattr(self, field.name) for field in fields(self))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the total."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"total": self.total}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a spec asks of every runtime, in numbers: of its weights, and of those that one token needs.

    `cache`: for each layer the numbers that it keeps of a token, and of how many tokens at most.
    `widest`: numbers that the largest block computes for each token. `attentions`: the kinds of attention, each once;
    `masks`: how many different masks they need.
    """

    weights: int
    weights_read: float
    vocabulary: int
    d_model: int
    cache: tuple[tuple[int, int | None], ...]
    widest: int
    attentions: tuple[Attention | LatentAttention, ...]
    masks: int


def demand(found: Account) -> Demand:
    """The demand of a model."""
    spec = found.spec
    attentions = tuple(dict.fromkeys(block for _, block in spec.attentions))
    seen = {(b.window, b.chunk, b.causal, b.block_sparse) for b in attentions if isinstance(b, Attention)}
    return Demand(
        weights=found.parameters.total + found.parameters.ahead,
        weights_read=Account(spec).weights_read / 2,  # at 16 bits
        vocabulary=spec.vocab_size,
        d_model=spec.d_model,
        cache=tuple((layer.numbers, layer.span) for layer in found.kv_cache.layers),
        widest=max((_width(leaf) for _, leaf in spec.leaves()), default=0),
        attentions=attentions,
        masks=max(len(seen), 1),
    )


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A runtime. `decode` and `prefill` are the parts of the machine's bandwidth and arithmetic that it reaches.

    They were measured (`benchmarks/fit_vs_bench.py`), as were the bytes of its `process` and of each token of a vocabulary.
    Weights are kept as numbers of `number` bytes beside the mapped file, or, if that is None, as the file stores them and
    instead of it. What is computed are numbers of 4 bytes, what is cached of `cached`; a prompt is read `chunk` tokens at a
    time. Windowed layers keep `margin` tokens more than they look back on, and those of a chunk.
    """

    name: str
    process: int
    token: int
    number: int | None
    cached: int
    chunk: int
    margin: int
    decode: float
    prefill: float

    def memory(self, asked: Demand, file: int, context: int, batch: int = 1) -> Memory:
        """What `batch` sequences of `context` tokens take, of a model in a file of so many bytes."""
        return Memory(
            process=self.process,
            weights=file if self.number is None else self.number * asked.weights,
            file=0 if self.number is None else file,
            vocabulary=self.token * asked.vocabulary,
            cache=batch * self.cache(asked, context),
            activations=batch * self._activations(asked, context),
        )

    def cache(self, asked: Demand, context: int) -> int:
        """Bytes of keys and values of one sequence."""
        kept = (
            numbers * (context if span is None else min(context, span - 1 + self.margin + self.chunk))
            for numbers, span in asked.cache
        )
        return self.cached * sum(kept)

    def _activations(self, asked: Demand, context: int) -> int:
        """Bytes of the largest layer's intermediate values over one chunk, of masks, and of the logits."""
        T, S = min(self.chunk, context), context
        numbers = T * (6 * asked.d_model + asked.widest) + 2 * asked.vocabulary
        if self.number is None:  # no scores and no masks are kept
            return 4 * numbers
        attention = max((_attention(block, T, S) for block in asked.attentions), default=0)
        return 4 * (numbers + attention) + T * S * asked.masks  # a mask is a byte for each pair

    def read(self, asked: Demand, stored: float, context: int, batch: int = 1) -> float:
        """Bytes that one step of `batch` sequences reads, all at the end of `context` tokens.

        `stored` are those of the weights that it needs, as the file has them.
        """
        weights = stored if self.number is None else self.number * asked.weights_read
        return weights + batch * self.cache(asked, context)


def _width(leaf: object) -> int:
    """Numbers that a leaf computes for each token, beside its result."""
    match leaf:
        case FeedForward():
            return (3 if leaf.gated else 2) * leaf.d_ff
        case MixtureOfExperts():
            return _width(leaf.expert) * leaf.router.top_k + (_width(leaf.shared) if leaf.shared else 0)
        case Attention():
            return 3 * (leaf.n_heads + 2 * leaf.n_kv_heads) * leaf.head_dim
        case LatentAttention():
            return 4 * leaf.n_heads * (leaf.q_dim + leaf.v_dim)
    return 0


def _attention(leaf: Attention | LatentAttention, T: int, S: int) -> int:
    """Numbers of scores, and of keys and values that are made anew: PyTorch's fused kernel needs a mask, and no scores."""
    if isinstance(leaf, LatentAttention):
        return T * S + 2 * S * leaf.n_heads * (leaf.q_dim + leaf.v_dim)
    if leaf.softcap is None and not leaf.sinks and leaf.relative_bias is None:
        return T * S
    return 3 * leaf.n_heads * T * S + 2 * S * leaf.n_heads * leaf.head_dim


_TORCH = Backend(
    name="torch", process=265 * MIB, token=200, number=4, cached=4, chunk=512, margin=64, decode=0.38, prefill=0.15
)
_NATIVE = Backend(
    name="native", process=77 * MIB, token=150, number=None, cached=2, chunk=512, margin=64, decode=0.9, prefill=0.55
)
BACKENDS = {backend.name: backend for backend in (_NATIVE, _TORCH)}


def backend(name: str | None = None) -> Backend:
    """A runtime by its name; the default one without. Raises `OrditoError` if there is none of that name."""
    chosen = name or next(iter(BACKENDS))
    if chosen not in BACKENDS:
        raise OrditoError(f"unknown backend {chosen!r}, expected one of {', '.join(BACKENDS)}")
    return BACKENDS[chosen]
