"""Linear maps in training on CPUs, by products of our own (cpp/product.hpp) where they are faster than PyTorch's.

What comes in is rounded as it is packed, so that no copy of the weights in another type is made, and the gradient of a weight
is summed up in fp32 straight into its own type.
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
"""The types that products are of, and what the runtime calls them."""
WORTH = 1 << 16
"""Numbers of a tensor from which on a call of the runtime costs less than it saves."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, (..., in) -> (..., out), in the type that autocast asks for, as `torch.nn.functional.linear` does it.

    Its gradient can be taken once; where none is wanted, and wherever PyTorch is as fast, PyTorch computes.
    """
    kind = product_type(x)
    if not (computes(kind, x, weight) and (kind != torch.float32 or _mkl_is_slow())):
        return F.linear(x, weight, bias)
    y_no: Tensor = _Linear.apply(x.flatten(0, -2), weight, bias, kind)  # type: ignore[no-untyped-call]
    return y_no.view(*x.shape[:-1], len(weight))


def product_type(x: Tensor) -> torch.dtype:
    """The type of products with x: that of autocast while it is on, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def computes(kind: torch.dtype, *tensors: Tensor) -> bool:
    """Whether gradients are wanted, and the runtime has products of this kind that can read them, the first not a small one."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling() or tensors[0].numel() < WORTH:
        return False
    return _there(kind) and all(map(_plain, tensors))


def product(a: Tensor, b: Tensor, kind: torch.dtype, to: torch.dtype) -> Tensor:
    """A B, (m, n), of (m, k) and (k, n) rounded to `kind`, summed up in fp32 and then of the type `to`."""
    c = torch.empty(len(a), b.shape[1], dtype=to)
    _core.multiply(KINDS[kind], _along_an_axis(a), _along_an_axis(b), c, torch.get_num_threads())
    return c


def _along_an_axis(x: Tensor) -> Tensor:
    return x if 1 in x.stride() else x.contiguous()


def _plain(x: Tensor) -> bool:
    """Whether a tensor's numbers lie in this machine's memory, all of them, as they are."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype in KINDS


@cache
def _there(kind: torch.dtype) -> bool:
    return kind in KINDS and _core.has_products(KINDS[kind]) and _core.has_team()


@cache
def _mkl_is_slow(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether fp32 products are Intel's library's, on a processor of somebody else: half as fast there as they could be."""
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
