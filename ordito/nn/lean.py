"""Norms and gates that keep less for the backward pass than their steps, one by one, would: they make it again there."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in fp32, (..., D); the result has `dtype`."""
    y: Tensor = _RmsNorm.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return y


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        scale = (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        normed, upstream = x.float() * scale, upstream.float()
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (upstream * normed).flatten(0, -2).sum(dim=0).to(weight.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            scaled = upstream * weight
            along = torch.linalg.vecdot(scaled, normed).unsqueeze(-1) / x.shape[-1]
            grad_x = scaled.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None, None


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, (..., F)."""
    y: Tensor = _SiluGate.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


class _SiluGate(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(upstream)
        return torch.ops.aten.silu_backward(upstream * up, gate), grad_up
