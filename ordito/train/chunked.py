"""Sums over rows of logits without ever holding the logits of all rows.

The logits of a batch are its largest tensor by far (tokens x vocabulary). A sum over tokens can be taken a few rows at a
time, and its gradient with it: what stays is the gradient of the hidden states and of the head, and no logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from ordito.nn.products import product_type

BYTES = 1 << 26
"""Of logits that are held at once: fewer would add up the gradient of the head more often, which is as large as the head."""


def chunked_sum(
    loss: Callable[..., Tensor],
    project: Callable[[Tensor], Tensor],
    hidden_nD: Tensor,
    parameters: Sequence[nn.Parameter],
    *aligned: Tensor,
    rows: int | None = None,
) -> Tensor:
    """loss(project(hidden), *aligned), a sum over the n rows, taken `rows` at a time, or as many as make `BYTES` of logits.

    `parameters` are those that `project` uses; `aligned` are tensors of n rows that go with them. Without rows it is a zero
    that hangs on all of the graph: processes that sum their gradients must have the same ones.
    """
    if rows is None:
        rows = max(64, BYTES // (product_type(hidden_nD).itemsize * max(len(parameters[0]), 1))) if parameters else 256
    wanted = [parameter for parameter in parameters if parameter.requires_grad]
    if not len(hidden_nD):
        return 0.0 * torch.stack([hidden_nD.sum(), *(parameter.sum() for parameter in wanted)]).sum()
    if not torch.is_grad_enabled() or not (hidden_nD.requires_grad or wanted):
        with torch.no_grad():
            sums = [loss(project(h), *rest) for h, *rest in _pieces(rows, hidden_nD, *aligned)]
            return torch.stack(sums).sum()
    total: Tensor = _ChunkedSum.apply(  # type: ignore[no-untyped-call]
        loss, project, rows, len(wanted), hidden_nD, *wanted, *aligned
    )
    return total


def _pieces(rows: int, *tensors: Tensor) -> Any:
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


class _ChunkedSum(Function):
    @staticmethod
    def forward(ctx: Any, loss: Any, project: Any, rows: int, n_parameters: int, hidden_nD: Tensor, *tensors: Tensor) -> Tensor:
        parameters, aligned = tensors[:n_parameters], tensors[n_parameters:]
        total = hidden_nD.new_zeros((), dtype=torch.float32)
        grad_hidden = torch.empty_like(hidden_nD)
        grads: list[Tensor | None] = [None] * n_parameters
        begin = 0
        for h, *rest in _pieces(rows, hidden_nD, *aligned):
            with torch.enable_grad():
                piece = h.detach().requires_grad_()
                part = loss(project(piece), *rest)
                found = torch.autograd.grad(part, (piece, *parameters), allow_unused=True)
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
