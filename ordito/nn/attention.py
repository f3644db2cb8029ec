"""Attention: one implementation of every multi-head, grouped-query and cross-attention of a spec, and DeepSeek's MLA."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito import spec
from ordito.nn.fused_attention import can_attend, fused_attention
from ordito.nn.norm import Linear, Norm, Table
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
        self.attend = Attend()
        self.sinks = nn.Parameter(torch.empty(b.n_heads)) if b.sinks else None
        bias = b.relative_bias
        self.relative_bias = RelativeBias(bias, b.n_heads, b.causal) if bias and not bias.shared else None

    @property
    def cache_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of what the cache keeps per token: keys and values. Those of an encoder's states are in `Cache.source`."""
        if self.block.cross:
            return (0,), (0,)
        shape = (self.block.n_kv_heads, self.block.head_dim)
        return shape, shape

    def forward(self, x_BTD: Tensor, step: Step) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        B, T, _ = x_BTD.shape
        b = self.block
        q_BNTH = self._norm_and_rope(self.q(x_BTD).view(B, T, b.n_heads, b.head_dim).transpose(1, 2), self.q_norm, step)
        if b.temperature is not None:
            q_BNTH = q_BNTH * step.temperature(b.temperature)
        k_BGSH, v_BGSH = self._source(step) if b.cross else self._keys_and_values(x_BTD, step)
        if self.relative_bias is not None:
            step.relative_bias = self.relative_bias(step)
        y_BNTH = self.attend(
            q_BNTH,
            k_BGSH,
            v_BGSH,
            step.visible(b)[..., -k_BGSH.shape[2] :],  # the cache of a sliding-window layer keeps only the last keys
            b.scale,
            softcap=b.softcap,
            sinks_N=self.sinks,
            bias_BNTS=step.relative_bias if b.relative_bias else None,
        )
        return self.o(y_BNTH.transpose(1, 2).reshape(B, T, -1))

    def _keys_and_values(self, x_BTD: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens so far, cached ones included, (B, G, S, H) each."""
        k_BTGH, v_BTGH = self._project(x_BTD)
        k_BSGH, v_BSGH = self._norm_and_rope(k_BTGH.transpose(1, 2), self.k_norm, step).transpose(1, 2), v_BTGH
        if step.cache is not None:
            k_BSGH, v_BSGH = step.cache.append(self.slot, k_BSGH, v_BSGH)
        return k_BSGH.transpose(1, 2), v_BSGH.transpose(1, 2)

    def _source(self, step: Step) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's states, (B, G, S, H) each; computed once per cache, which keeps them."""
        found = step.cache.source.get(self.slot) if step.cache is not None else None
        if found is None:
            assert step.source_BSD is not None, "cross-attention needs a source"
            k_BSGH, v_BSGH = self._project(step.source_BSD)
            found = k_BSGH.transpose(1, 2), v_BSGH.transpose(1, 2)
            if step.cache is not None:
                step.cache.source[self.slot] = found
        return found

    def _project(self, x_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values before norm and rope, (B, S, G, H) each."""
        shape = (*x_BSD.shape[:2], self.block.n_kv_heads, self.block.head_dim)
        return self.k(x_BSD).view(shape), self.v(x_BSD).view(shape)

    def _norm_and_rope(self, x_BNTH: Tensor, norm: Norm | None, step: Step) -> Tensor:
        """Queries or keys (B, N or G, T, H) after their norm and rope, in the order that the spec says."""
        b = self.block
        if norm is not None and not b.norm_after_rope:
            x_BNTH = norm(x_BNTH)
        if b.rope is not None:
            x_BNTH = rotate(x_BNTH, b.rope, step)
        if norm is not None and b.norm_after_rope:
            x_BNTH = norm(x_BNTH)
        return x_BNTH


def attend(
    q_BNTH: Tensor,
    k_BGSH: Tensor,
    v_BGSH: Tensor,
    visible_B1TS: Tensor,
    scale: float,
    *,
    softcap: float | None = None,
    sinks_N: Tensor | None = None,
    bias_BNTS: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k^T + bias) v over the visible keys, (B, N, T, H); query head n reads key-value head n // (N / G).

    A `softcap` c turns scores into c tanh(score / c) before the bias (Gemma 2, arXiv:2408.00118); `sinks_N` is the score, per
    head, of one more key without a value (gpt-oss). In training on CPUs the native runtime computes it, otherwise PyTorch's
    fused kernel, or, with a soft cap or sinks, which that lacks, the explicit formula (`probabilities`).
    """
    if bias_BNTS is None and visible_B1TS.shape[1] == 1 and can_attend(q_BNTH, k_BGSH, v_BGSH):
        return fused_attention(q_BNTH, k_BGSH, v_BGSH, visible_B1TS, scale, softcap, sinks_N)
    N, G = q_BNTH.shape[1], k_BGSH.shape[1]
    if softcap is None and sinks_N is None:
        if N != G and torch.is_grad_enabled():
            # On CPUs the fused kernel has no backward pass with enable_gqa; PyTorch's fallback is three times slower than this.
            k_BGSH, v_BGSH, G = k_BGSH.repeat_interleave(N // G, dim=1), v_BGSH.repeat_interleave(N // G, dim=1), N
        if bias_BNTS is not None:
            visible_B1TS = bias_BNTS.masked_fill(~visible_B1TS, float("-inf"))
        return F.scaled_dot_product_attention(q_BNTH, k_BGSH, v_BGSH, attn_mask=visible_B1TS, scale=scale, enable_gqa=N != G)
    weights_BNTS = probabilities(q_BNTH, k_BGSH, visible_B1TS, scale, softcap=softcap, sinks_N=sinks_N, bias_BNTS=bias_BNTS)
    return weights_BNTS.to(v_BGSH.dtype) @ v_BGSH.repeat_interleave(N // G, dim=1)


def probabilities(
    q_BNTH: Tensor,
    k_BGSH: Tensor,
    visible_B1TS: Tensor,
    scale: float,
    *,
    softcap: float | None = None,
    sinks_N: Tensor | None = None,
    bias_BNTS: Tensor | None = None,
) -> Tensor:
    """Attention weights of each query over the keys, (B, N, T, S), fp32; with sinks, a row sums to less than 1."""
    N, G = q_BNTH.shape[1], k_BGSH.shape[1]
    scores_BNTS = (q_BNTH @ k_BGSH.repeat_interleave(N // G, dim=1).transpose(-1, -2)) * scale
    if softcap is not None:
        scores_BNTS = softcap * torch.tanh(scores_BNTS / softcap)
    if bias_BNTS is not None:
        scores_BNTS = scores_BNTS + bias_BNTS
    scores_BNTS = scores_BNTS.float().masked_fill(~visible_B1TS, float("-inf"))
    if sinks_N is None:
        return scores_BNTS.softmax(dim=-1)
    sinks = sinks_N.float().view(1, N, 1, 1).expand(*scores_BNTS.shape[:3], 1)
    return torch.cat((scores_BNTS, sinks), dim=-1).softmax(dim=-1)[..., :-1]


class Attend(nn.Module):
    """`attend` as a module, so that forward hooks can see its queries, keys and values."""

    def forward(self, *tensors: Any, **settings: Any) -> Tensor:
        """`attend` with the same arguments."""
        return attend(*tensors, **settings)


class RelativeBias(Table):
    """`spec.RelativeBias` (T5, arXiv:1910.10683): a table (buckets, N) of biases by distance."""

    def __init__(self, block: spec.RelativeBias, n_heads: int, causal: bool) -> None:
        super().__init__(block.n_buckets, n_heads)
        self.block, self.causal = block, causal

    def forward(self, step: Step) -> Tensor:  # type: ignore[override]
        """The bias that is added to the scores, (B, N, T, S)."""
        behind_BTS = step.q_positions_BT[:, :, None] - step.k_positions_BS[:, None, :]
        return super().forward(self._bucket(behind_BTS)).permute(0, 3, 1, 2)

    def _bucket(self, behind: Tensor) -> Tensor:
        """The bucket of each distance, int64, of the shape of `behind`, which is positive where a key precedes the query.

        Half of the buckets are for exact distances, the others for ranges that grow logarithmically up to `max_distance`.
        """
        n = self.block.n_buckets if self.causal else self.block.n_buckets // 2
        after = torch.zeros_like(behind) if self.causal else (behind < 0).long() * n
        distance = behind.clamp(min=0) if self.causal else behind.abs()
        exact = n // 2
        # In fp32, as the models were trained: in another precision, distances at an edge would fall into another bucket.
        ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.block.max_distance / exact)
        far = (exact + (ratio * (n - exact)).long()).clamp(max=n - 1)
        return after + torch.where(distance < exact, distance, far)


class LatentAttention(nn.Module):
    """`spec.LatentAttention` (MLA, DeepSeek-V2, arXiv:2405.04434, section 2.1), without absorbing k_up and v_up into q and o:
    keys and values of all heads are computed from the cached latents at every step."""

    slot: int

    def __init__(self, block: spec.LatentAttention) -> None:
        super().__init__()
        self.block = b = block

        def norm(name: str, width: int) -> Norm:
            return Norm(spec.Norm(name=name, kind="rms", d_model=width, eps=b.norm_eps))

        if b.q_rank is None:
            self.q = Linear(b.d_model, b.n_heads * b.q_dim, bias=False)
        else:
            self.q_down = Linear(b.d_model, b.q_rank, bias=b.bias)
            self.q_norm = norm("q_norm", b.q_rank)
            self.q_up = Linear(b.q_rank, b.n_heads * b.q_dim, bias=False)
        self.kv_down = Linear(b.d_model, b.kv_rank + b.rope.dim, bias=b.bias)
        self.kv_norm = norm("kv_norm", b.kv_rank)
        self.k_up = Linear(b.kv_rank, b.n_heads * b.nope_dim, bias=False)
        self.v_up = Linear(b.kv_rank, b.n_heads * b.v_dim, bias=False)
        self.attend = Attend()
        self.o = Linear(b.n_heads * b.v_dim, b.d_model, bias=b.bias)

    @property
    def cache_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of what the cache keeps per token: the latent and the rotary key that all heads share."""
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
        k_nope = self.k_up(latent_BSR).view(B, -1, b.n_heads, b.nope_dim).transpose(1, 2)
        v_BNSH = self.v_up(latent_BSR).view(B, -1, b.n_heads, b.v_dim).transpose(1, 2)
        q_BNTH = torch.cat((q_nope, rotate(q_rope, b.rope, step)), dim=-1)
        k_BNSH = torch.cat((k_nope, k_rope[:, None].expand(-1, b.n_heads, -1, -1)), dim=-1)
        y_BNTH = self.attend(q_BNTH, k_BNSH, v_BNSH, step.mask(causal=True), b.scale)
        return self.o(y_BNTH.transpose(1, 2).reshape(B, T, -1))
