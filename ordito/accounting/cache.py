"""What a model keeps of the tokens that it has read: its key-value cache, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ordito.spec import Attention, LatentAttention, Spec

Kind = Literal["full", "window", "chunk", "blocks", "latent", "source"]
CONTEXTS = (4096, 32768, 131072)
"""The contexts at which sizes are shown."""
WINDOWS_OFTEN, WINDOW = 6, 1024
"""Gemma 3's pattern, for the question what windows would save: all but every sixth layer look 1,024 tokens back."""
GROUPS = 8
"""Key-value heads, at most, where one asks what grouped-query attention would save: LLaMA's number."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one attention keeps: `numbers` of each token, of at most `span` tokens (None: of all).

    `kind` says why: `full`, a `window`, a `chunk`, `blocks` (a sparse pattern: other heads need other tokens, so all stay), a
    `latent`, or the `source` of cross-attention, whose size is that of the source text and which no token adds to.
    """

    path: str
    kind: Kind
    numbers: int
    span: int | None = None

    def at(self, context: int) -> int:
        """Numbers kept after `context` tokens."""
        return self.numbers * (context if self.span is None else min(context, self.span))


@dataclass(frozen=True)
class Cache:
    """The cache of a model: its layers in order, and the longest context that the model was made for."""

    layers: tuple[Layer, ...]
    context: int

    @property
    def bytes_per_token(self) -> int:
        """Bytes that a token adds at 16 bits, while no window is full."""
        return self.at(1)

    @property
    def bytes_per_token_growing(self) -> int:
        """The part of them that goes on growing up to the model's own context."""
        return 2 * sum(layer.numbers for layer in self.layers if layer.span is None or layer.span >= self.context)

    def at(self, context: int, bytes_per_number: int = 2) -> int:
        """Bytes after `context` tokens of one sequence."""
        return bytes_per_number * sum(layer.at(context) for layer in self.layers)

    def kinds(self) -> list[tuple[Layer, int]]:
        """The layers that are alike, each with how many there are of it; the path is that of the first."""
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
    """The cache of `spec`; without layers if it does not generate."""
    kept = [(path, block) for path, block in spec.attentions if not getattr(block, "cross", False)]
    return Cache(tuple(layer(path, block) for path, block in kept) if spec.generates else (), spec.context)


def layer(path: str, block: Attention | LatentAttention) -> Layer:
    """What one attention keeps."""
    return Layer(path=path, kind=kind(block), numbers=cached_numbers(block), span=block.span)


def kind(block: Attention | LatentAttention) -> Kind:
    """The kind of what one attention keeps."""
    if isinstance(block, LatentAttention):
        return "latent"
    if block.cross:
        return "source"
    if block.window:
        return "window"
    return "chunk" if block.chunk else "blocks" if block.block_sparse else "full"


def cached_numbers(block: Attention | LatentAttention) -> int:
    """Numbers that one token leaves in the cache of one attention: 2 G H, or the latent and its rotary key.

    Cross-attention keeps the source's, which no token adds to.
    """
    if isinstance(block, LatentAttention):
        return block.kv_rank + block.rope.dim
    return 0 if block.cross else 2 * block.n_kv_heads * block.head_dim


def variants(spec: Spec) -> dict[str, Cache]:
    """The cache that the model would have with other attention, everything else the same: a name for each.

    Multi-head, grouped-query with up to 8 key-value heads, multi-query, latent with DeepSeek-V2's proportions
    (arXiv:2405.04434, section 2.1.4: a latent of 4 head sizes and a rotary key of half a one), and all windows off; or,
    where there are none, the windows of Gemma 3. Those that are what the model is are left out.
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
        "latent (4.5 head sizes)": with_numbers([per_head(block) // 2 * 9 // 2 for block in blocks]),
        "without windows": replace(own, layers=tuple(replace(one, span=None) for one in own.layers)),
    }
    if all(one.span is None for one in own.layers):
        found[f"windows of {WINDOW:,} on all but every {WINDOWS_OFTEN}th layer"] = replace(
            own,
            layers=tuple(
                replace(one, span=None if number % WINDOWS_OFTEN == 0 else WINDOW)
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
