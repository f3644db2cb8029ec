"""Attention: one implementation for every kind that a spec can describe, and DeepSeek's latent form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito import spec
from ordito.nn.norm import Linear, Norm
from ordito.nn.step import Step, rotate


class Attention(nn.Module):
    """`spec.Attention`."""

    slot: int

    def __init__(self, block: spec.Attention) -> None:
        super().__init__()
        self.block = b = block
        self.q = Linear(b.d_model, b.n_heads * b.head_dim, bias="q" in b.bias)
        self.k = Linear(b.d_model, b.n_kv_heads * b.head_dim, bias="k" in b.bias)
        self.v = Linear(b.d_model, b.n_kv_heads * b.head_dim, bias="v" in b.bias)
        self.o = Linear(b.n_heads * b.head_dim, b.d_model, bias="o" in b.bias)
        self.q_norm = Norm(b.q_norm) if b.q_norm else None
        self.k_norm = Norm(b.k_norm) if b.k_norm else None
        self.sinks = nn.Parameter(torch.empty(b.n_heads)) if b.sinks else None

    @property
    def cache_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of each token, its keys and its values."""
        shape = (self.block.n_kv_heads, self.block.head_dim)
        return shape, shape

    def forward(self, x_BTD: Tensor, step: Step) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        B, T, _ = x_BTD.shape
        b = self.block
        q_BNTH = self._place(self.q(x_BTD).view(B, T, b.n_heads, b.head_dim).transpose(1, 2), self.q_norm, step)
        k_BGTH = self._place(self.k(x_BTD).view(B, T, b.n_kv_heads, b.head_dim).transpose(1, 2), self.k_norm, step)
        v_BTGH = self.v(x_BTD).view(B, T, b.n_kv_heads, b.head_dim)
        k_BSGH, v_BSGH = k_BGTH.transpose(1, 2), v_BTGH
        if step.cache is not None:
            k_BSGH, v_BSGH = step.cache.append(self.slot, k_BSGH, v_BSGH)
        y_BNTH = attend(
            q_BNTH,
            k_BSGH.transpose(1, 2),
            v_BSGH.transpose(1, 2),
            step.visible(b),
            b.scale,
            softcap=b.softcap,
            sinks_N=self.sinks,
        )
        return self.o(y_BNTH.transpose(1, 2).reshape(B, T, -1))

    def _place(self, x: Tensor, norm: Norm | None, step: Step) -> Tensor:
        """Norm and rope of queries or keys, in the order that the spec says."""
        b = self.block
        if norm is not None and not b.norm_after_rope:
            x = norm(x)
        if b.rope is not None:
            x = rotate(x, b.rope, step)
        if norm is not None and b.norm_after_rope:
            x = norm(x)
        return x


def attend(
    q_BNTH: Tensor,
    k_BGSH: Tensor,
    v_BGSH: Tensor,
    visible_B1TS: Tensor,
    scale: float,
    *,
    softcap: float | None = None,
    sinks_N: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k) v over the visible keys, (B, N, T, H); query head n reads key-value head n // (N / G).

    PyTorch's fused kernel does it where it can: it knows neither caps nor sinks, which take the written-out way.
    """
    N, G = q_BNTH.shape[1], k_BGSH.shape[1]
    if softcap is None and sinks_N is None:
        return F.scaled_dot_product_attention(q_BNTH, k_BGSH, v_BGSH, attn_mask=visible_B1TS, scale=scale, enable_gqa=N != G)
    k_BNSH, v_BNSH = k_BGSH.repeat_interleave(N // G, dim=1), v_BGSH.repeat_interleave(N // G, dim=1)
    scores_BNTS = (q_BNTH @ k_BNSH.transpose(-1, -2)) * scale
    if softcap is not None:
        scores_BNTS = softcap * torch.tanh(scores_BNTS / softcap)
    scores_BNTS = scores_BNTS.float().masked_fill(~visible_B1TS, float("-inf"))
    if sinks_N is not None:
        sinks = sinks_N.float().view(1, N, 1, 1).expand(*scores_BNTS.shape[:3], 1)
        probabilities = torch.cat((scores_BNTS, sinks), dim=-1).softmax(dim=-1)[..., :-1]
    else:
        probabilities = scores_BNTS.softmax(dim=-1)
    return probabilities.to(v_BNSH.dtype) @ v_BNSH


class LatentAttention(nn.Module):
    """`spec.LatentAttention`, in the plain form: keys and values of all heads are made from the latent at every step."""

    slot: int

    def __init__(self, block: spec.LatentAttention) -> None:
        super().__init__()
        self.block = b = block

        def norm(name: str, width: int) -> Norm:
            return Norm(spec.Norm(name=name, kind="rms", d_model=width, eps=b.norm_eps))

        if b.q_rank is None:
            self.q = Linear(b.d_model, b.n_heads * b.q_dim, bias=False)
        else:
            self.q_down = Linear(b.d_model, b.q_rank, bias=False)
            self.q_norm = norm("q_norm", b.q_rank)
            self.q_up = Linear(b.q_rank, b.n_heads * b.q_dim, bias=False)
        self.kv_down = Linear(b.d_model, b.kv_rank + b.rope.dim, bias=False)
        self.kv_norm = norm("kv_norm", b.kv_rank)
        self.kv_up = Linear(b.kv_rank, b.n_heads * (b.nope_dim + b.v_dim), bias=False)
        self.o = Linear(b.n_heads * b.v_dim, b.d_model, bias=False)

    @property
    def cache_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of each token, its latent and its rotary key."""
        return (self.block.kv_rank,), (self.block.rope.dim,)

    def forward(self, x_BTD: Tensor, step: Step) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        B, T, _ = x_BTD.shape
        b = self.block
        q = self.q(x_BTD) if b.q_rank is None else self.q_up(self.q_norm(self.q_down(x_BTD)))
        q_nope, q_rope = q.view(B, T, b.n_heads, b.q_dim).transpose(1, 2).split((b.nope_dim, b.rope.dim), dim=-1)
        latent_BSR, k_rope = self.kv_down(x_BTD).split((b.kv_rank, b.rope.dim), dim=-1)
        latent_BSR, k_rope = self.kv_norm(latent_BSR), rotate(k_rope[:, None], b.rope, step)[:, 0]
        if step.cache is not None:
            latent_BSR, k_rope = step.cache.append(self.slot, latent_BSR, k_rope)
        kv = self.kv_up(latent_BSR).view(B, -1, b.n_heads, b.nope_dim + b.v_dim).transpose(1, 2)
        k_nope, v_BNSH = kv.split((b.nope_dim, b.v_dim), dim=-1)
        q_BNTH = torch.cat((q_nope, rotate(q_rope, b.rope, step)), dim=-1)
        k_BNSH = torch.cat((k_nope, k_rope[:, None].expand(-1, b.n_heads, -1, -1)), dim=-1)
        y_BNTH = attend(q_BNTH, k_BNSH, v_BNSH, step.mask(causal=True), b.scale)
        return self.o(y_BNTH.transpose(1, 2).reshape(B, T, -1))
