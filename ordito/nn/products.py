"""Linear maps in training on CPUs, by the native runtime's matrix product (cpp/product.hpp) where it is faster than PyTorch's.

Inputs are rounded while they are packed into panels, so that no copy of the weights in another dtype is made. The gradient of
a weight is accumulated in fp32 and written in the weight's dtype.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core

KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
"""The dtypes that products are computed in, and the runtime's names of them."""
MIN_ELEMENTS = 1 << 16
"""Elements of a tensor from which on calling the runtime pays."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, (..., in) -> (..., out), in the dtype of autocast while it is on, as `torch.nn.functional.linear`.

    Differentiable once. PyTorch computes it where no gradient is recorded, or where PyTorch is as fast.
    """
    kind = product_type(x)
    if not (use_runtime(kind, x, weight) and (kind != torch.float32 or _mkl_is_slow())):
        return F.linear(x, weight, bias)
    y_no: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias, kind)  # type: ignore[no-untyped-call]
    return y_no.view(*x.shape[:-1], len(weight))


def product_type(x: Tensor) -> torch.dtype:
    """The dtype of matrix products with x: that of autocast while it is on, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def use_runtime(kind: torch.dtype, *tensors: Tensor) -> bool:
    """Whether the native runtime should compute an operation in dtype `kind` on these tensors.

    It should if gradients are recorded, it has kernels of this dtype, it can read the tensors, and the first is large enough.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or tensors[0].numel() < MIN_ELEMENTS:
        return False
    return _has_kernels(kind) and all(map(_readable, tensors))


def product(a: Tensor, b: Tensor, kind: torch.dtype, to: torch.dtype) -> Tensor:
    """A B, (m, n), of (m, k) and (k, n), both rounded to `kind`, accumulated in fp32 and returned in the dtype `to`."""
    c = torch.empty(len(a), b.shape[1], dtype=to)
    _core.multiply(KINDS[kind], _with_unit_stride(a), _with_unit_stride(b), c, torch.get_num_threads())
    return c


def _with_unit_stride(x: Tensor) -> Tensor:
    return x if 1 in x.stride() else x.contiguous()


def _readable(x: Tensor) -> bool:
    """Whether the runtime can read the elements in memory: an ordinary CPU tensor, no `DTensor` or other subclass."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype in KINDS


@cache
def _has_kernels(kind: torch.dtype) -> bool:
    return kind in KINDS and _core.has_products(KINDS[kind]) and _core.has_team()


@cache
def _mkl_is_slow(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether PyTorch uses MKL on a processor that is not Intel's, where fp32 products reach half of the possible speed."""
    try:
        return bool(torch.backends.mkl.is_available()) and "GenuineIntel" not in cpuinfo.read_text()  # type: ignore[no-untyped-call]
    except OSError:  # not Linux
        return False


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> Tensor:
        x_ni = x.detach().to(kind)
        ctx.save_for_backward(x_ni if ctx.needs_input_grad[1] else None, weight)
        ctx.kind, ctx.dtype = kind, x.dtype
        ctx.bias = None if bias is None else bias.dtype
        y_no = product(x_ni, weight.detach().T, kind, kind)
        if bias is not None:
            y_no += bias
        return y_no

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_no: Tensor) -> Any:
        x_ni, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_no, weight.detach(), ctx.kind, ctx.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = product(grad_no.T, x_ni, ctx.kind, weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_no.sum(dim=0, dtype=torch.float32).to(ctx.bias)
        return grad_x, grad_weight, grad_bias, None
