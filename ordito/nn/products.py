"""Linear maps in training on CPUs, by products of our own (cpp/product.hpp) where they are faster than PyTorch's.

What comes in is rounded as it is packed, so that no copy of the weights in another type is made, and the gradient of a weight
is summed up in fp32 straight into its own type.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core

_KINDS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """W x + b, (..., in) -> (..., out), in the type that autocast asks for, as `torch.nn.functional.linear` does it.

    Its gradient can be taken once; where none is wanted, and wherever else it has to, PyTorch computes.
    """
    kind = product_type(x)
    if not (torch.is_grad_enabled() and _plain(x) and _plain(weight) and _ours(kind)):
        return F.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x, weight, bias, kind)  # type: ignore[no-untyped-call]
    return y


def product_type(x: Tensor) -> torch.dtype:
    """The type of products with x: that of autocast while it is on, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def product(a: Tensor, b: Tensor, kind: torch.dtype, to: torch.dtype) -> Tensor:
    """A B, (m, n), of (m, k) and (k, n) rounded to `kind`, summed up in fp32 and then of the type `to`."""
    c = torch.empty(len(a), b.shape[1], dtype=to)
    _core.multiply(_KINDS[kind], _along_an_axis(a), _along_an_axis(b), c, torch.get_num_threads())
    return c


def _along_an_axis(x: Tensor) -> Tensor:
    return x if 1 in x.stride() else x.contiguous()


def _plain(x: Tensor) -> bool:
    """Whether a tensor's numbers lie in this machine's memory, all of them, as they are."""
    return type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" and x.dtype in _KINDS and not torch.compiler.is_compiling()


@cache
def _ours(kind: torch.dtype) -> bool:
    return kind in _KINDS and _core.has_products(_KINDS[kind])


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kind: torch.dtype) -> Tensor:
        x_ni = x.detach().flatten(0, -2).to(kind)
        ctx.save_for_backward(x_ni, weight)
        ctx.kind, ctx.shape, ctx.dtype = kind, x.shape, x.dtype
        ctx.bias = None if bias is None else bias.dtype
        y_no = product(x_ni, weight.detach().T, kind, kind)
        if bias is not None:
            y_no += bias
        return y_no.view(*x.shape[:-1], len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x_ni, weight = ctx.saved_tensors
        grad_no = grad.flatten(0, -2)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_no, weight.detach(), ctx.kind, ctx.dtype).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            grad_weight = product(grad_no.T, x_ni, ctx.kind, weight.dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad_no.sum(dim=0, dtype=torch.float32).to(ctx.bias)
        return grad_x, grad_weight, grad_bias, None
