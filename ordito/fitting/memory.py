"""The memory that a model takes, by its parts, and the sizes of a spec from which runtimes derive it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ordito.accounting import Account
from ordito.fitting.vocabularies import VocabularySize
from ordito.native.shares import tokens_together
from ordito.spec import Attention, FeedForward, LatentAttention, MixtureOfExperts, leaves_of


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes that a model takes while it runs.

    `process`: the program, its libraries and what loading takes; `weights`: as the runtime keeps them; `file`: pages of the
    mapped file that stay in memory; `vocabulary`: the tokenizer; `cache`: the KV cache; `activations`: at their peak, while a
    prompt is read; `opening`: what loading the vocabulary took beyond what cache and activations need later.
    """

    process: int
    weights: int
    file: int
    vocabulary: int
    cache: int
    activations: int
    opening: int

    @property
    def total(self) -> int:
        """The peak, in bytes."""
        return sum(getattr(self, field.name) for field in fields(self))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the total."""
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"total": self.total}


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The sizes of a spec that memory and speed depend on, in numbers (not bytes).

    - `weights`: all parameters; `weights_read`: those that a decoding step reads.
    - `rows`: the vocabulary size.
    - `cache`: for each layer, numbers cached per token, rows of them (keys and values of its heads), and the most tokens that
      it keeps (None: all).
    - `crossed`: for each cross-attention, numbers cached per token of the source, and rows.
    - `encoded`: for each layer of an encoder, its keys and values per token, which are freed once a text is read.
    - `widths`: for each kind of block, the numbers per token that the largest one computes.
    - `attentions`: the different kinds of attention; `masks`: how many different masks they need.
    - `together`: tokens that the native runtime computes together.
    """

    weights: int
    weights_read: float
    vocabulary: VocabularySize
    rows: int
    d_model: int
    cache: tuple[tuple[int, int, int | None], ...]
    crossed: tuple[tuple[int, int], ...]
    encoded: tuple[int, ...]
    widths: tuple[int, ...]
    attentions: tuple[Attention | LatentAttention, ...]
    masks: int
    together: int


def demand(found: Account, vocabulary: VocabularySize) -> Demand:
    """The sizes of an accounted model with this vocabulary."""
    spec = found.spec
    attentions = tuple(dict.fromkeys(block for _, block in spec.attentions))
    caching = [block for _, block in spec.attentions if not getattr(block, "cross", False)]
    encoder = leaves_of(spec.encoder) if spec.encoder else () if spec.generates else leaves_of(spec.body)
    seen = {(b.window, b.chunk, b.causal, b.block_sparse) for b in attentions if isinstance(b, Attention)}
    widths: dict[type, int] = {}
    for _, leaf in spec.leaves():
        widths[type(leaf)] = max(widths.get(type(leaf), 0), _width(leaf))
    return Demand(
        weights=found.parameters.total + found.parameters.ahead,
        weights_read=Account(spec).weights_read / 2,  # at 16 bits
        vocabulary=vocabulary,
        rows=spec.vocab_size,
        d_model=spec.d_model,
        cache=tuple(
            (layer.numbers, _rows(block), layer.span) for layer, block in zip(found.kv_cache.layers, caching, strict=False)
        ),
        crossed=tuple((_keys_and_values(b), _rows(b)) for _, b in spec.attentions if isinstance(b, Attention) and b.cross),
        encoded=tuple(_keys_and_values(b) for _, b in encoder if isinstance(b, Attention)),
        widths=tuple(widths.values()),
        attentions=attentions,
        masks=max(len(seen), 1),
        together=tokens_together(spec),
    )


def _keys_and_values(block: Attention) -> int:
    """Numbers of one token's keys and values."""
    return 2 * block.n_kv_heads * block.head_dim


def _rows(block: Attention | LatentAttention) -> int:
    """The keys and values of one token; a latent has a scale as either."""
    return 2 * (block.n_kv_heads if isinstance(block, Attention) else 1)


def _width(leaf: object) -> int:
    """Intermediate numbers that a leaf computes for each token; for attention, with the copies quantized for products."""
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
