"""How many tokens are computed together, and a batch in shares of so many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ordito import _core
from ordito.spec import MixtureOfExperts, Spec

TOGETHER, MOST = 128, 512
"""Tokens that are computed together, and at most where few of them come to each expert.

What a layer makes of them stays in the second cache; with fewer, weights would be read more often than that is worth.
"""

Part = tuple[_core.Cached, Sequence[int]]


def tokens_together(spec: Spec) -> int:
    """So many that an expert, too, gets enough of them to be worth reading."""
    routers = [leaf.router for _, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts)]
    return min(MOST, TOGETHER * max((router.n_experts // router.top_k for router in routers), default=1))


def shares(parts: Sequence[Part], wanted: Sequence[int], most: int) -> Iterator[tuple[list[Part], list[int]]]:
    """The tokens of all parts in shares of `most`, in their order; of each the parts, and which of its rows are wanted."""
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
