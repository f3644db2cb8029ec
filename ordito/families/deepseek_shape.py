"""The architecture of DeepSeek V2 and V3, built for config.json (deepseek.py) and GGUF metadata (deepseek_gguf.py) alike."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ordito.families.config import leaves
from ordito.families.decoder import Sizes
from ordito.families.naming import Permuted
from ordito.spec import Dense, FeedForward, LatentAttention, MixtureOfExperts, NextToken, Spec, YarnScaling

V2, V3 = "deepseek_v2", "deepseek_v3"


def build(
    sizes: Sizes,
    label: str,
    attention: LatentAttention,
    dense: FeedForward,
    mixture: MixtureOfExperts,
    n_dense: int,
    n_ahead: int = 0,
) -> Spec:
    """The spec: `n_dense` layers with the feed-forward `dense`, then layers with the `mixture`; `n_ahead` MTP modules, whose
    layers have the mixture too."""
    dense_layer, sparse_layer = sizes.layer(attention, dense), sizes.layer(attention, mixture)
    spec = sizes.spec(label, [dense_layer if i < n_dense else sparse_layer for i in range(sizes.n_layers)])
    ahead = NextToken(
        d_model=sizes.d_model,
        embedding_norm=sizes.norm("embedding_norm"),
        hidden_norm=sizes.norm("hidden_norm"),
        join=Dense(name="join", d_in=2 * sizes.d_model, d_out=sizes.d_model),
        layer=sparse_layer,
        norm=sizes.norm("norm"),
    )
    return replace(spec, ahead=(ahead,) * n_ahead)


def scoring(label: str, renormalise: bool) -> dict[str, Any]:
    """The fields of `Router` in which the generations differ. V2's published code never used its `norm_topk_prob`."""
    if label == V2:
        return {"group_score": "max"}
    return {"score": "sigmoid", "choice_bias": True, "group_score": "top2", "renormalise": renormalise}


def yarn_scale(q_dim: int, factor: float, mscale: float) -> float:
    """The scale of scores with YaRN: q_dim ** -0.5 * (0.1 mscale ln(factor) + 1) ** 2.

    YaRN's attention factor is moved here from cos and sin, so that it scales all channels of q and k, not only the rotary
    ones. `mscale` is `mscale_all_dim` of config.json (arXiv:2405.04434, section 3.1.4).
    """
    magnitude = YarnScaling.usual_magnitude(factor, mscale)
    return q_dim**-0.5 * (magnitude * magnitude)  # ** would raise on overflow, where the product is infinite


def mscale_of(attention: LatentAttention) -> float | None:
    """The `mscale` for which `yarn_scale` gives the scale of `attention` to the last bit; None for q_dim ** -0.5."""
    scaling, q_dim, scale = attention.rope.scaling, attention.q_dim, attention.scale
    if not isinstance(scaling, YarnScaling) or scaling.factor <= 1 or scale == q_dim**-0.5:
        return None
    rate = 0.1 * math.log(scaling.factor)
    about = (math.sqrt(scale * q_dim**0.5) - 1) / rate
    as_written = float(f"{about:.12g}")
    near = (about + n * 2**-55 / rate for n in sorted(range(-256, 257), key=abs))
    return next((s for s in (as_written, *near) if yarn_scale(q_dim, scaling.factor, s) == scale), about)


KV_UP = ("layers.{}.attention.k_up", "layers.{}.attention.v_up")
"""The up-projections of the latent, which `kv_b_proj` fuses."""


def kv_by_head(spec: Spec) -> Permuted:
    """The rows of `kv_b_proj` are ordered by head: for each, those of its key, then those of its value."""
    attention = leaves(spec, LatentAttention)[0]
    nope, both = attention.nope_dim, attention.nope_dim + attention.v_dim

    def order() -> list[int]:
        parts = (range(nope), range(nope, both))
        return [h * both + i for part in parts for h in range(attention.n_heads) for i in part]

    return Permuted(order)
