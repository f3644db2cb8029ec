"""Cross-entropy per token, with the gradient as the only further tensor of the logits' size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core
from ordito.nn.products import use_runtime


def token_losses(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """logsumexp_v z_iv - z_i,target of each row, (n,), fp32, of logits (n, V); differentiable once."""
    implementation = _ByRuntime if use_runtime(logits_nV.dtype, logits_nV) else _ByPyTorch
    losses_n: Tensor = implementation.apply(logits_nV, targets_n)  # type: ignore[no-untyped-call]
    return losses_n


class _ByRuntime(Function):
    """Reads the logits twice in the forward pass and once in the backward pass, in their own dtype."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, targets_n: Tensor) -> Tensor:
        logits, targets = logits_nV.detach().contiguous(), targets_n.contiguous()
        losses_n, logsumexp_n = torch.empty(len(targets)), torch.empty(len(targets))
        _core.cross_entropy(logits, targets, losses_n, logsumexp_n, torch.get_num_threads())
        ctx.save_for_backward(logits, targets, logsumexp_n)
        return losses_n

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_n: Tensor) -> tuple[Tensor, None]:
        logits, targets, logsumexp_n = ctx.saved_tensors
        grad_nV = torch.empty_like(logits)
        weights_n = upstream_n.float().contiguous()
        _core.cross_entropy_gradient(logits, targets, logsumexp_n, weights_n, grad_nV, torch.get_num_threads())
        return grad_nV, None


class _ByPyTorch(Function):
    """The gradient, softmax - one-hot, is computed in one copy of the logits, in three passes."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, targets_n: Tensor) -> Tensor:
        logits_fp32_nV = logits_nV.float()
        lse_n1 = logits_fp32_nV.logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(logits_fp32_nV, lse_n1, targets_n)
        ctx.dtype = logits_nV.dtype
        return (lse_n1 - logits_fp32_nV.gather(1, targets_n[:, None]))[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream_n: Tensor) -> tuple[Tensor, None]:
        logits_fp32_nV, lse_n1, targets_n = ctx.saved_tensors
        grad_nV = torch.sub(logits_fp32_nV, lse_n1).exp_()
        grad_nV.scatter_add_(1, targets_n[:, None], -torch.ones_like(lse_n1))
        return grad_nV.mul_(upstream_n[:, None]).to(ctx.dtype), None
