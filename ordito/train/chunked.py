"""Losses over logits in chunks of rows, so that the logits of all rows are never in memory.

The logits of a batch are by far its largest tensor (tokens x vocabulary). A loss that sums over tokens is computed a chunk of
rows at a time, together with its gradient: only the gradients of the hidden states and of the head are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ordito.nn.products import product_type

BYTES = 1 << 26
"""Bytes of logits per chunk. Smaller chunks would accumulate the gradient of the head, which is as large as the head, more
often."""


def chunked_sum(
    loss: Callable[..., Tensor],
    project: Callable[[Tensor], Tensor],
    hidden_nD: Tensor,
    parameters: Sequence[nn.Parameter],
    *aligned: Tensor,
    rows: int | None = None,
) -> Tensor:
    """loss(project(hidden), *aligned), fp32, a sum over n rows, in chunks of `rows` rows, by default of `BYTES` of logits.

    `parameters` are those of `project`; `aligned` are tensors of n rows, split with the hidden states. For n = 0 it is a zero
    that depends on all of them, so that in every process the same parameters have gradients.
    """
    if rows is None:
        rows = max(64, BYTES // (product_type(hidden_nD).itemsize * max(len(parameters[0]), 1))) if parameters else 256
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not len(hidden_nD):
        return 0.0 * torch.stack([hidden_nD.sum(), *(parameter.sum() for parameter in wanted)]).sum()
    if not torch.is_grad_enabled() or not (hidden_nD.requires_grad or wanted):
        with torch.no_grad():
            sums = [loss(project(h), *rest) for h, *rest in _chunks(rows, hidden_nD, *aligned)]
            return torch.stack(sums).sum()
    total: Tensor = _ChunkedSum.apply(  # type: ignore[no-untyped-call]
        loss, project, rows, len(wanted), hidden_nD, *wanted, *aligned
    )
    return total


def _chunks(rows: int, *tensors: Tensor) -> Any:
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


class _ChunkedSum(Function):
    @staticmethod
    def forward(ctx: Any, loss: Any, project: Any, rows: int, n_parameters: int, hidden_nD: Tensor, *tensors: Tensor) -> Tensor:
        parameters, aligned = tensors[:n_parameters], tensors[n_parameters:]
        total = hidden_nD.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden_nD)
        grads: list[Tensor | None] = [None] * n_parameters
        begin = 0
        for h, *rest in _chunks(rows, hidden_nD, *aligned):
            with torch.enable_grad():
                chunk = h.detach().requires_grad_()
                part = loss(project(chunk), *rest)
                found = torch.autograd.grad(part, (chunk, *parameters), allow_unused=True)
            total += part.detach()
            grad_hidden[begin : begin + len(h)] = 0 if found[0] is None else found[0]
            begin += len(h)
            for i, grad in enumerate(found[1:]):
                if grad is not None:
                    before = grads[i]
                    grads[i] = grad if before is None else before.add_(grad)
        ctx.save_for_backward(grad_hidden, *(grad for grad in grads if grad is not None))
        ctx.there = [grad is not None for grad in grads]
        ctx.n_aligned = len(aligned)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        grad_hidden, *saved = ctx.saved_tensors
        grads = [saved.pop(0).mul_(upstream) if there else None for there in ctx.there]
        return (None, None, None, None, grad_hidden * upstream, *grads, *([None] * ctx.n_aligned))
