"""Attention in training on CPUs, by the runtime (cpp/attention_training.hpp): no scores are kept, shared keys and values are
not repeated, and what a block of queries does not see is not computed. PyTorch's kernel does neither caps nor sinks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core
from ordito.nn.products import KINDS, computes, product_type


def can_attend(q_BNTH: Tensor, k_BGSH: Tensor, v_BGSH: Tensor) -> bool:
    """Whether `fused_attention` is there for these: on CPUs, while gradients are wanted."""
    return computes(product_type(q_BNTH), q_BNTH, k_BGSH, v_BGSH)


def fused_attention(
    q_BNTH: Tensor,
    k_BGSH: Tensor,
    v_BGSH: Tensor,
    visible_B1TS: Tensor,
    scale: float,
    softcap: float | None,
    sinks_N: Tensor | None,
) -> Tensor:
    """softmax(scale q k) v over the visible keys, (B, N, T, H), in the type that autocast asks for.

    A query that sees nothing gets 0. Scores are fp32; a `softcap` c makes c tanh(score / c) of them, and `sinks_N` are scores
    of a key without a value. The gradient can be taken once.
    """
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q_BNTH, k_BGSH, v_BGSH))
    visible_BTS = visible_B1TS.expand(len(q), 1, q.shape[2], k.shape[2])[:, 0]
    visible_BTS = visible_BTS if visible_BTS.stride(-1) == 1 else visible_BTS.contiguous()
    kind = product_type(q_BNTH)
    y: Tensor = _Attention.apply(q, k, v, sinks_N, visible_BTS, (kind, scale, softcap or 0.0))  # type: ignore[no-untyped-call]
    return y


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, visible: Tensor, how: tuple[torch.dtype, float, float]
    ) -> Tensor:
        kind, scale, cap = how
        B, N, T, _ = q.shape
        y_BNTH = torch.empty(B, T, N, v.shape[-1], dtype=kind).transpose(1, 2)  # as the next map reads it
        logs_BNT = torch.empty(B, N, T)
        wide = None if sinks is None else sinks.detach().float()
        inputs = (q.detach(), k.detach(), v.detach(), visible.view(torch.uint8), wide, scale, cap)
        _core.attend(KINDS[kind], *inputs, y_BNTH, logs_BNT, torch.get_num_threads())
        ctx.save_for_backward(q, k, v, sinks, visible, y_BNTH, logs_BNT)
        ctx.how = how
        return y_BNTH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, sinks, visible, y_BNTH, logs_BNT = ctx.saved_tensors
        kind, scale, cap = ctx.how
        wide = None if sinks is None else sinks.detach().float()
        inputs = (q.detach(), k.detach(), v.detach(), visible.view(torch.uint8), wide, scale, cap)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        along_BNT = torch.empty_like(logs_BNT)
        change = grad if grad.stride(-1) == 1 else grad.contiguous()
        _core.attend_gradient(KINDS[kind], *inputs, y_BNTH, change, logs_BNT, along_BNT, *grads, torch.get_num_threads())
        grad_sinks = None
        if sinks is not None:
            shares_BNT = torch.exp(sinks.detach().float()[:, None] - logs_BNT)
            grad_sinks = -(shares_BNT * along_BNT).sum(dim=(0, 2)).to(sinks.dtype)
        return *grads, grad_sinks, None, None
