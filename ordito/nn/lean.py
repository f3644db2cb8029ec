"""RMSNorm, SwiGLU's gate and rotary embeddings as autograd functions that save less for the backward pass.

Of intermediate results at most one number of each row is saved; the others are computed again in the backward pass. On CPUs
the native runtime computes them row by row (cpp/training_rows.hpp), elsewhere PyTorch does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core
from ordito.nn.products import KINDS, use_runtime


def rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, (..., D), computed in fp32 and returned in `dtype`."""
    by_runtime = use_runtime(x.dtype, x, weight) and weight.dtype == torch.float32 and dtype in KINDS
    way = _RmsNormRows if by_runtime else _RmsNorm
    y: Tensor = way.apply(x, weight, eps, dtype)  # type: ignore[no-untyped-call]
    return y


class _RmsNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        scale = (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
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


class _RmsNormRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        y = torch.empty(x.shape, dtype=dtype)
        _core.norm_rows(_rows(x), eps, weight.detach(), _rows(y), torch.get_num_threads())
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = torch.empty(x.shape, dtype=x.dtype)
        grad_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        rows = (_rows(upstream), _rows(grad_x), grad_weight)
        _core.norm_rows_gradient(_rows(x), ctx.eps, weight.detach(), *rows, torch.get_num_threads())
        return grad_x, grad_weight, None, None


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, (..., F)."""
    way = _SiluGateRows if use_runtime(gate.dtype, gate, up) and gate.dtype == up.dtype else _SiluGate
    y: Tensor = way.apply(gate, up)  # type: ignore[no-untyped-call]
    return y


class _SiluGate(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_up = F.silu(gate).mul_(upstream)
        return torch.ops.aten.silu_backward(upstream * up, gate), grad_up


class _SiluGateRows(Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        y = torch.empty(gate.shape, dtype=gate.dtype)
        _core.gate_rows(_rows(gate), _rows(up), _rows(y), torch.get_num_threads())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        grad_gate, grad_up = torch.empty(gate.shape, dtype=gate.dtype), torch.empty(up.shape, dtype=up.dtype)
        grads = _rows(grad_gate), _rows(grad_up)
        _core.gate_rows_gradient(_rows(gate), _rows(up), _rows(upstream), *grads, torch.get_num_threads())
        return grad_gate, grad_up


def rotate_heads(x_BNTH: Tensor, cos_B1TP: Tensor, sin_B1TP: Tensor, interleaved: bool) -> Tensor | None:
    """Rotary embedding of the first 2 P channels of every head, in the dtype of x; the other channels pass through.

    Channels are rotated in pairs (p, p + P), or (2 p, 2 p + 1) if `interleaved`. Returns None where the native runtime cannot
    compute it.
    """
    if not (use_runtime(x_BNTH.dtype, x_BNTH) and cos_B1TP.dtype == torch.float32 and x_BNTH.stride(-1) == 1):
        return None
    angles = cos_B1TP[:, 0].contiguous(), sin_B1TP[:, 0].contiguous()
    y: Tensor = _RotateHeads.apply(x_BNTH, *angles, interleaved)  # type: ignore[no-untyped-call]
    return y


class _RotateHeads(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _rotated(x.detach(), cos, sin, interleaved, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(upstream, cos, sin, ctx.interleaved, back=True), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool, back: bool) -> Tensor:
    x = x if x.stride(-1) == 1 else x.contiguous()
    # Laid out as (B, T, N, H), which the linear maps before and after read and write.
    y = torch.empty(len(x), x.shape[2], x.shape[1], x.shape[3], dtype=x.dtype).transpose(1, 2)
    angles = cos.expand(len(x), -1, -1), sin.expand(len(x), -1, -1)
    _core.rotate_heads(x, *angles, interleaved, back, y, torch.get_num_threads())
    return y


def _rows(x: Tensor) -> Tensor:
    rows = x.detach().flatten(0, -2) if x.ndim > 1 else x.detach()[None]
    return rows if rows.stride(-1) == 1 else rows.contiguous()
