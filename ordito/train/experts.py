"""Experts divided among processes: every process routes all of its rows' tokens, computes its run of experts, and all share.

Rows of tokens come sorted by expert, so that what one process computes is one piece of them: nothing has to be summed, and
the outputs are, to the bit, those of a process that has all experts. What is sent is K rows a token and layer in each
direction; the all-to-all of GShard (arXiv:2006.16668) sends less where processes read different tokens, which here the axis
of data is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def divided(
    each: Callable[[Tensor, Sequence[int]], Tensor], group: Any, n_experts: int, x: Tensor, counts: Sequence[int]
) -> Tensor:
    """`Experts.each` where every process of a group has n_experts / its size of the experts, in the order of their ranks.

    The same rows x (n, in), `counts[e]` of them for expert e, come in all processes, and so does the result, (n, out).
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    here = n_experts // size
    ends = [0, *accumulate(sum(counts[begin : begin + here]) for begin in range(0, n_experts, here))]
    pieces = [slice(begin, end) for begin, end in pairwise(ends)]
    mine: Tensor = _Mine.apply(x, pieces, rank, group)  # type: ignore[no-untyped-call]
    made = each(mine, counts[rank * here : (rank + 1) * here])
    everything: Tensor = _All.apply(made, pieces, rank, group)  # type: ignore[no-untyped-call]
    return everything


def _gathered(piece: Tensor, pieces: Sequence[slice], rank: int, group: Any) -> Tensor:
    """The rows of all processes, of which each has one piece."""
    rows = piece.new_empty(pieces[-1].stop, *piece.shape[1:])
    rows[pieces[rank]] = piece
    for owner, place in enumerate(pieces):
        if place.stop > place.start:
            dist.broadcast(rows[place], group=group, group_src=owner)
    return rows


class _Mine(Function):
    """One piece of rows that every process has."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pieces: Sequence[slice], rank: int, group: Any) -> Tensor:
        ctx.place = (pieces, rank, group)
        return x[pieces[rank]].clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _gathered(upstream, *ctx.place), None, None, None


class _All(Function):
    """The rows of all, of which every process then has the same use."""

    @staticmethod
    def forward(ctx: Any, piece: Tensor, pieces: Sequence[slice], rank: int, group: Any) -> Tensor:
        ctx.mine = pieces[rank]
        return _gathered(piece, pieces, rank, group)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream[ctx.mine].contiguous(), None, None, None
