"""The KV cache of a model, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ordito.errors import OrditoError
from ordito.spec import Attention, LatentAttention, Spec

Kind = Literal["full", "window", "chunk", "blocks", "latent", "source"]
CONTEXTS = (4096, 32768, 131072)
"""The contexts at which sizes are shown."""
FULL_EVERY, WINDOW = 6, 1024
"""Gemma 3's pattern, for the variant with windows: every sixth layer is full, the others have a window of 1,024 tokens."""
GROUPS = 8
"""Key-value heads, at most, of the variant with grouped-query attention: LLaMA's number."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The cache of one attention layer: `numbers` for each token, of at most `span` tokens (None: of all).

    `kind` is the reason: `full`, a `window`, a `chunk`, `blocks` (a block-sparse pattern: each head needs other tokens, so all
    are kept), a `latent`, or the `source` of cross-attention, which has the length of the source and does not grow.
    """

    path: str
    kind: Kind
    numbers: int
    span: int | None = None

    def at(self, context: int) -> int:
        """Numbers cached after `context` tokens."""
        return self.numbers * (context if self.span is None else min(context, self.span))


@dataclass(frozen=True)
class Cache:
    """The KV cache of a model: its layers in order, and the model's own context."""

    layers: tuple[Layer, ...]
    context: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes that each token adds at 16 bits, while no window is full."""
        return self.at(1)

    @property
    def bytes_per_token_growing(self) -> int:
        """The bytes that each token adds at 16 bits in layers that grow up to the model's own context."""
        return 2 * sum(layer.numbers for layer in self.layers if layer.span is None or layer.span >= self.context)

    def at(self, context: int, bytes_per_number: int = 2) -> int:
        """Bytes after `context` tokens of one sequence. Raises `OrditoError` for a negative number of tokens."""
        if context < 0:
            raise OrditoError(f"the KV cache after {context} tokens: expected at least 0")
        return bytes_per_number * sum(layer.at(context) for layer in self.layers)

    def kinds(self) -> list[tuple[Layer, int]]:
        """The different kinds of layers, each with the number of such layers; the path is that of the first."""
        times = Counter(replace(layer, path="") for layer in self.layers)
        firsts: dict[Layer, Layer] = {}
        for layer in self.layers:
            firsts.setdefault(replace(layer, path=""), layer)
        return [(firsts[kind], n) for kind, n in times.items()]

    def outgrows(self, nbytes: int, bytes_per_number: int = 2) -> int | None:
        """The first context at which the cache takes more than `nbytes`, or None if it never does."""
        high = 1
        while self.at(high, bytes_per_number) <= nbytes:
            if all(layer.span is not None and layer.span <= high for layer in self.layers):
                return None
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle, bytes_per_number) > nbytes else (middle, high)
        return high


def cache_of(spec: Spec) -> Cache:
    """The KV cache of `spec`; without layers if it does not generate."""
    kept = [(path, block) for path, block in spec.attentions if not getattr(block, "cross", False)]
    return Cache(tuple(layer(path, block) for path, block in kept) if spec.generates else (), spec.context)


def layer(path: str, block: Attention | LatentAttention) -> Layer:
    """The cache of one attention layer."""
    return Layer(path=path, kind=kind(block), numbers=cached_numbers(block), span=block.span)


def kind(block: Attention | LatentAttention) -> Kind:
    """The kind of cache of one attention layer."""
    if isinstance(block, LatentAttention):
        return "latent"
    if block.cross:
        return "source"
    if block.window:
        return "window"
    return "chunk" if block.chunk else "blocks" if block.block_sparse else "full"


def cached_numbers(block: Attention | LatentAttention) -> int:
    """Numbers that one token adds to the cache of one attention layer: 2 G H, or the latent and its rotary key.

    0 for cross-attention, which caches the source only.
    """
    if isinstance(block, LatentAttention):
        return block.kv_rank + block.rope.dim
    return 0 if block.cross else 2 * block.n_kv_heads * block.head_dim


def variants(spec: Spec) -> dict[str, Cache]:
    """Name -> the KV cache that the model would have with another kind of attention, everything else the same.

    Multi-head, grouped-query with up to 8 key-value heads, multi-query, latent with DeepSeek-V2's proportions
    (arXiv:2405.04434, section 2.1.4: a latent of 4 head sizes and a rotary key of half a head size), and without windows; or,
    if there are none, with those of Gemma 3. Variants that equal the model or one another are left out.
    """
    own = cache_of(spec)
    blocks = [block for _, block in spec.attentions if not getattr(block, "cross", False)]

    def with_numbers(numbers: Sequence[int]) -> Cache:
        layers = (replace(one, numbers=n) for one, n in zip(own.layers, numbers, strict=True))
        return replace(own, layers=tuple(layers))

    if not own.layers:
        return {}
    n_heads = blocks[0].n_heads
    groups = max(g for g in range(1, GROUPS + 1) if n_heads % g == 0)
    found = {
        "multi-head": with_numbers([per_head(block) * block.n_heads for block in blocks]),
        f"grouped-query, {groups} key-value heads": with_numbers([per_head(block) * groups for block in blocks]),
        "multi-query": with_numbers([per_head(block) for block in blocks]),
        "latent (4.5 head sizes)": with_numbers([value_dim(block) * 9 // 2 for block in blocks]),
        "without windows": replace(own, layers=tuple(replace(one, span=None) for one in own.layers)),
    }
    if all(one.span is None for one in own.layers):
        found[f"windows of {WINDOW:,} on all but every {FULL_EVERY}th layer"] = replace(
            own,
            layers=tuple(
                replace(one, span=None if number % FULL_EVERY == 0 else WINDOW)
                for number, one in enumerate(own.layers, start=1)
            ),
        )
    different: dict[tuple[tuple[int, int | None], ...], str] = {}
    for name, cache in {"": own, **found}.items():
        different.setdefault(tuple((one.numbers, one.span) for one in cache.layers), name)
    return {name: found[name] for name in different.values() if name}


def per_head(block: Attention | LatentAttention) -> int:
    """Numbers of one head's key and value."""
    return block.q_dim + block.v_dim if isinstance(block, LatentAttention) else 2 * block.head_dim


def value_dim(block: Attention | LatentAttention) -> int:
    """The head size of values; in DeepSeek's models also that of keys without their rotary part."""
    return block.v_dim if isinstance(block, LatentAttention) else block.head_dim
