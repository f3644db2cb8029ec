"""The shape of DeepSeek's models, which their config.json and their GGUF metadata both describe."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ordito.families.config import leaves
from ordito.families.decoder import Sizes
from ordito.families.naming import Permuted
from ordito.spec import (
    Block,
    Dense,
    FeedForward,
    LatentAttention,
    MixtureOfExperts,
    NextToken,
    Spec,
    YarnScaling,
)

V2, V3 = "deepseek_v2", "deepseek_v3"


def build(
    sizes: Sizes,
    label: str,
    attention: LatentAttention,
    dense: FeedForward,
    routed: MixtureOfExperts,
    n_dense: int,
    n_ahead: int = 0,
) -> Spec:
    """The spec: `n_dense` layers with a plain feed-forward, the rest with experts, and `n_ahead` further tokens."""
    mlps: list[Block] = [dense if i < n_dense else routed for i in range(sizes.n_layers)]
    spec = sizes.spec(label, [sizes.layer(attention, mlp) for mlp in mlps])
    ahead = NextToken(
        d_model=sizes.d_model,
        embedding_norm=sizes.norm("embedding_norm"),
        hidden_norm=sizes.norm("hidden_norm"),
        join=Dense(name="join", d_in=2 * sizes.d_model, d_out=sizes.d_model),
        layer=sizes.layer(attention, mlps[-1]),
        norm=sizes.norm("norm"),
    )
    return replace(spec, ahead=(ahead,) * n_ahead)


def scoring(label: str, renormalise: bool) -> dict[str, Any]:
    """How each generation scores. V2's published code never used its `norm_topk_prob`."""
    if label == V2:
        return {"group_score": "max"}
    return {"score": "sigmoid", "choice_bias": True, "group_score": "top2", "renormalise": renormalise}


def slope_of(attention: LatentAttention) -> dict[str, float]:
    """`mscale_all_dim`, which a scale above the usual one shows."""
    magnitude = math.sqrt(attention.scale * attention.q_dim**0.5)
    if not isinstance(attention.rope.scaling, YarnScaling) or abs(magnitude - 1) < 1e-9:
        return {}
    return {"mscale_all_dim": round((magnitude - 1) / (0.1 * math.log(attention.rope.scaling.factor)), 6)}


HEADS = ("layers.{}.attention.k_up", "layers.{}.attention.v_up")


def whole_kv(spec: Spec) -> Permuted:
    """They keep the maps to keys and values in one, by head: its key's rows, then its value's."""
    attention = leaves(spec, LatentAttention)[0]
    nope, both = attention.nope_dim, attention.nope_dim + attention.v_dim
    keys = (h * both + i for h in range(attention.n_heads) for i in range(nope))
    values = (h * both + i for h in range(attention.n_heads) for i in range(nope, both))
    return Permuted((*keys, *values))
