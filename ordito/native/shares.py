"""Splits a large batch into shares that are computed one after another, so that activations stay in a core's cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ordito import _core
from ordito.spec import MixtureOfExperts, Spec

SHARE_TOKENS, MAX_SHARE_TOKENS = 128, 512
"""Tokens of a share: in a dense model, and at most in a mixture of experts.

With more tokens the activations of a layer no longer fit into the L2 cache; with fewer, weights are read more often than that
saves.
"""

Part = tuple[_core.Cached, Sequence[int]]


def tokens_together(spec: Spec) -> int:
    """Tokens of a share for this model: each expert, too, gets about `SHARE_TOKENS` of them, but at most `MAX_SHARE_TOKENS`."""
    routers = [leaf.router for _, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts)]
    return min(MAX_SHARE_TOKENS, SHARE_TOKENS * max((router.n_experts // router.top_k for router in routers), default=1))


def shares(parts: Sequence[Part], wanted: Sequence[int], most: int) -> Iterator[tuple[list[Part], list[int]]]:
    """Cuts a batch, in order, into shares of `most` tokens: the parts of each share, and which of its rows are wanted."""
    share: list[Part] = []
    start, room = 0, most
    for sequence, ids in parts:
        cuts = [0, *range(room, len(ids), most), len(ids)]
        for first, end in pairwise(cuts):
            share.append((sequence, ids[first:end]))
            room -= end - first
            if not room:
                yield share, [row - start for row in wanted if start <= row < start + most]
                share, start, room = [], start + most, most
    if share:
        yield share, [row - start for row in wanted if start <= row]
