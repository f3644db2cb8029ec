"""The shape of DeepSeek's models, which their config.json and their GGUF metadata both describe."""

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
    routed: MixtureOfExperts,
    n_dense: int,
    n_ahead: int = 0,
) -> Spec:
    """The spec: `n_dense` layers with a plain feed-forward, the rest with experts, as those of the `n_ahead` further tokens."""
    plain, sparse = sizes.layer(attention, dense), sizes.layer(attention, routed)
    spec = sizes.spec(label, [plain if i < n_dense else sparse for i in range(sizes.n_layers)])
    ahead = NextToken(
        d_model=sizes.d_model,
        embedding_norm=sizes.norm("embedding_norm"),
        hidden_norm=sizes.norm("hidden_norm"),
        join=Dense(name="join", d_in=2 * sizes.d_model, d_out=sizes.d_model),
        layer=sparse,
        norm=sizes.norm("norm"),
    )
    return replace(spec, ahead=(ahead,) * n_ahead)


def scoring(label: str, renormalise: bool) -> dict[str, Any]:
    """How each generation scores. V2's published code never used its `norm_topk_prob`."""
    if label == V2:
        return {"group_score": "max"}
    return {"score": "sigmoid", "choice_bias": True, "group_score": "top2", "renormalise": renormalise}


def stretched_scale(q_dim: int, factor: float, slope: float) -> float:
    """The scale of scores under YaRN: its magnitude, squared, is taken out of the rotation and put here.

    `slope` is `mscale_all_dim` of config.json (arXiv:2405.04434, section 3.1.4).
    """
    magnitude = YarnScaling.usual_magnitude(factor, slope)
    return q_dim**-0.5 * (magnitude * magnitude)  # a power of what is too large would raise, where a product is infinite


def slope_of(attention: LatentAttention) -> float | None:
    """The slope that `stretched_scale` makes this scale of, to the last bit; None for the usual scale."""
    scaling, q_dim, scale = attention.rope.scaling, attention.q_dim, attention.scale
    if not isinstance(scaling, YarnScaling) or scaling.factor <= 1 or scale == q_dim**-0.5:
        return None
    rate = 0.1 * math.log(scaling.factor)
    about = (math.sqrt(scale * q_dim**0.5) - 1) / rate
    as_written = float(f"{about:.12g}")
    near = (about + n * 2**-55 / rate for n in sorted(range(-256, 257), key=abs))
    return next((s for s in (as_written, *near) if stretched_scale(q_dim, scaling.factor, s) == scale), about)


HEADS = ("layers.{}.attention.k_up", "layers.{}.attention.v_up")


def whole_kv(spec: Spec) -> Permuted:
    """They keep the maps to keys and values in one, by head: its key's rows, then its value's."""
    attention = leaves(spec, LatentAttention)[0]
    nope, both = attention.nope_dim, attention.nope_dim + attention.v_dim

    def order() -> list[int]:
        parts = (range(nope), range(nope, both))
        return [h * both + i for part in parts for h in range(attention.n_heads) for i in part]

    return Permuted(order)
