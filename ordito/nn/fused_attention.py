"""Fused attention for training on CPUs, by the native runtime (cpp/attention_training.hpp).

As in FlashAttention (arXiv:2205.14135), scores are not saved; shared keys and values (GQA) are not repeated, and fully masked
blocks are skipped. Unlike PyTorch's `scaled_dot_product_attention`, it also computes soft caps and sinks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ordito import _core
from ordito.nn.products import KINDS, product_type, use_runtime


def can_attend(q_BNTH: Tensor, k_BGSH: Tensor, v_BGSH: Tensor) -> bool:
    """Whether `fused_attention` can and should be used for these tensors: on CPUs, while gradients are recorded."""
    return use_runtime(product_type(q_BNTH), q_BNTH, k_BGSH, v_BGSH)


def fused_attention(
    q_BNTH: Tensor,
    k_BGSH: Tensor,
    v_BGSH: Tensor,
    visible_B1TS: Tensor,
    scale: float,
    softcap: float | None,
    sinks_N: Tensor | None,
) -> Tensor:
    """softmax(scale q k^T) v over the visible keys, (B, N, T, H), in the dtype of autocast while it is on; differentiable once.

    A query without visible keys gives 0. Scores are fp32; a `softcap` c turns a score into c tanh(score / c), and `sinks_N` is
    the score, per head, of one more key, whose value is zero.
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
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        mask: Tensor,
        settings: tuple[torch.dtype, float, float],
    ) -> Tensor:
        kind, scale, cap = settings
        B, N, T, _ = q.shape
        y_BNTH = torch.empty(B, T, N, v.shape[-1], dtype=kind).transpose(1, 2)  # the layout that the output map reads
        logsumexp_BNT = torch.empty(B, N, T)
        sinks_fp32 = None if sinks is None else sinks.detach().float()
        inputs = (q.detach(), k.detach(), v.detach(), mask.view(torch.uint8), sinks_fp32, scale, cap)
        _core.attend(KINDS[kind], *inputs, y_BNTH, logsumexp_BNT, torch.get_num_threads())
        ctx.save_for_backward(q, k, v, sinks, mask, y_BNTH, logsumexp_BNT)
        ctx.settings = settings
        return y_BNTH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, k, v, sinks, mask, y_BNTH, logsumexp_BNT = ctx.saved_tensors
        kind, scale, cap = ctx.settings
        sinks_fp32 = None if sinks is None else sinks.detach().float()
        inputs = (q.detach(), k.detach(), v.detach(), mask.view(torch.uint8), sinks_fp32, scale, cap)
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        delta_BNT = torch.empty_like(logsumexp_BNT)
        grad = grad if grad.stride(-1) == 1 else grad.contiguous()
        _core.attend_gradient(KINDS[kind], *inputs, y_BNTH, grad, logsumexp_BNT, delta_BNT, *grads, torch.get_num_threads())
        grad_sinks = None
        if sinks is not None:
            sink_weights_BNT = torch.exp(sinks.detach().float()[:, None] - logsumexp_BNT)
            grad_sinks = -(sink_weights_BNT * delta_BNT).sum(dim=(0, 2)).to(sinks.dtype)
        return *grads, grad_sinks, None, None
