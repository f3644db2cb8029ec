"""Expert parallelism: each process of a group has a contiguous range of the experts.

All processes of the group have the same tokens and route all of them; each computes the rows of its own experts and broadcasts
the outputs to the others. Rows are sorted by expert, so the rows of a process are contiguous: nothing is summed, and outputs
are, to the bit, those of a process with all experts. K rows per token and layer are sent in each direction. The all-to-all of
GShard (arXiv:2006.16668) would send less if the processes read different tokens, which here only those along the data axis do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function


def expert_parallel(
    grouped: Callable[[Tensor, Sequence[int]], Tensor], group: Any, n_experts: int, x: Tensor, counts: Sequence[int]
) -> Tensor:
    """`Experts.grouped` on all experts, by a group of processes of which each has n_experts / size, in the order of ranks.

    All processes call it with the same rows x (n, in), `counts[e]` of them for expert e, and get the same result (n, out);
    `grouped` computes a process's own experts.
    """
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    local = n_experts // size
    ends = [0, *accumulate(sum(counts[begin : begin + local]) for begin in range(0, n_experts, local))]
    parts = [slice(begin, end) for begin, end in pairwise(ends)]
    own: Tensor = _Scatter.apply(x, parts, rank, group)  # type: ignore[no-untyped-call]
    outputs = grouped(own, counts[rank * local : (rank + 1) * local])
    gathered: Tensor = _Gather.apply(outputs, parts, rank, group)  # type: ignore[no-untyped-call]
    return gathered


def _all_gather(own: Tensor, parts: Sequence[slice], rank: int, group: Any) -> Tensor:
    """The rows of all processes; each has those of one part, of unequal sizes."""
    rows = own.new_empty(parts[-1].stop, *own.shape[1:])
    rows[parts[rank]] = own
    for owner, part in enumerate(parts):
        if part.stop > part.start:
            dist.broadcast(rows[part], group=group, group_src=owner)
    return rows


class _Scatter(Function):
    """This process's part of rows that every process has; its gradient is gathered from all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: Sequence[slice], rank: int, group: Any) -> Tensor:
        ctx.place = (parts, rank, group)
        return x[parts[rank]].clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return _all_gather(upstream, *ctx.place), None, None, None


class _Gather(Function):
    """The rows of all processes. Its gradient is this process's part: all processes have the same upstream gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, parts: Sequence[slice], rank: int, group: Any) -> Tensor:
        ctx.part = parts[rank]
        return _all_gather(own, parts, rank, group)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        return upstream[ctx.part].contiguous(), None, None, None
