"""Losses as pure functions of tensors: sums over rows, in fp32, which the caller divides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def cross_entropy(logits_nV: Tensor, targets_n: Tensor) -> Tensor:
    """sum_i (logsumexp_v z_iv - z_i,target): the negative log-likelihood of the targets, a sum."""
    total: Tensor = _CrossEntropy.apply(logits_nV.float(), targets_n)
    return total


class _CrossEntropy(Function):
    """Its gradient is softmax - one-hot: made in the memory of one copy of the logits, in three passes."""

    @staticmethod
    def forward(ctx: Any, logits_nV: Tensor, targets_n: Tensor) -> Tensor:
        lse_n1 = logits_nV.logsumexp(dim=-1, keepdim=True)
        picked_n1 = logits_nV.gather(1, targets_n[:, None])
        ctx.save_for_backward(logits_nV, lse_n1, targets_n)
        return (lse_n1 - picked_n1).sum()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        logits_nV, lse_n1, targets_n = ctx.saved_tensors
        grad_nV = torch.sub(logits_nV, lse_n1).exp_()
        ones_n1 = torch.ones_like(lse_n1)
        grad_nV.scatter_add_(1, targets_n[:, None], -ones_n1)
        return grad_nV.mul_(upstream), None


def z_loss(logits_nV: Tensor) -> Tensor:
    """sum_i logsumexp(z_i)^2: keeps logits from drifting (PaLM, arXiv:2204.02311, section 5)."""
    return logits_nV.float().logsumexp(dim=-1).square().sum()
