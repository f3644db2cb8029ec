"""Descriptions of attention: mask, heads, positions."""

from __future__ import annotations

from math import isclose, sqrt

from ordito.drawing.facts import Fact
from ordito.drawing.norm_words import norm_settings, norm_title
from ordito.drawing.rope_words import rope_facts
from ordito.drawing.sizes import number
from ordito.spec import Attention, LatentAttention, LogTemperature, SteppedTemperature, Temperature


def attention_title(block: Attention) -> str:
    """The kind of attention: multi-head, grouped-query, multi-query or cross-attention."""
    if block.cross:
        return "Cross-attention"
    if block.n_kv_heads == block.n_heads:
        return "Multi-head attention"
    return "Multi-query attention" if block.n_kv_heads == 1 else "Grouped-query attention"


def attention_facts(block: Attention) -> tuple[Fact, ...]:
    """The settings of an attention."""
    heads = f"{block.n_heads}" if block.n_kv_heads == block.n_heads else f"{block.n_heads} query, {block.n_kv_heads} KV"
    facts = [Fact("heads", heads), Fact("head_dim", f"{block.head_dim}")]
    facts.append(Fact("k, v", "from the encoder") if block.cross else Fact("mask", mask(block)))
    if block.rope is not None:
        facts.extend(rope_facts(block.rope, block.head_dim))
    elif (bias := block.relative_bias) is None and not block.cross:
        facts.append(Fact("rope", "none"))
    if (bias := block.relative_bias) is not None:
        facts.append(Fact("positions", f"relative bias, {bias.n_buckets} buckets to {bias.max_distance:,}, shared by layers"))
    facts.extend(_norms(block))
    if not isclose(block.scale, block.head_dim**-0.5, rel_tol=1e-6):
        facts.append(Fact("scale", _scale(block.scale)))
    if block.softcap is not None:
        facts.append(Fact("soft-cap", number(block.softcap)))
    if block.sinks:
        facts.append(Fact("sinks", "one learned logit per head"))
    if block.temperature is not None:
        facts.append(Fact("q scale", temperature(block.temperature)))
    if block.bias:
        facts.append(Fact("bias", f"on {', '.join(block.bias)}"))
    return tuple(facts)


def latent_facts(block: LatentAttention) -> tuple[Fact, ...]:
    """The settings of multi-head latent attention."""
    facts = [
        Fact("heads", f"{block.n_heads}"),
        Fact("head_dim", f"q, k {block.nope_dim} + {block.rope.dim} rope, v {block.v_dim}"),
        Fact("mask", "causal"),
        Fact("KV latent", f"{block.kv_rank:,} + {block.rope.dim} rope, cached"),
        Fact("q latent", f"{block.q_rank:,}" if block.q_rank else "none"),
        *rope_facts(block.rope, block.rope.dim),
        Fact("norms", f"on latents, ε {number(block.norm_eps)}"),
    ]
    if not isclose(block.scale, block.q_dim**-0.5, rel_tol=1e-6):
        facts.append(Fact("scale", _scale(block.scale)))
    if block.bias:
        facts.append(Fact("bias", "on projections from and to d_model"))
    return tuple(facts)


def mask(block: Attention) -> str:
    """The mask of self-attention."""
    limits = ["causal" if block.causal else "bidirectional"]
    if block.window is not None:
        limits.append(f"window {block.window:,}" if block.causal else f"window ±{block.window - 1:,}")
    if block.chunk is not None:
        limits.append(f"chunks of {block.chunk:,}")
    if (sparse := block.block_sparse) is not None:
        limits.append(f"blocks of {sparse.block}: {sparse.local} local, then every {sparse.stride}th")
    return ", ".join(limits)


def temperature(block: Temperature) -> str:
    """The factor on queries at position p."""
    match block:
        case SteppedTemperature():
            p = f"(p + {block.offset})" if block.offset else "p"
            return f"1 + {number(block.strength)} ln(1 + int({p} / {block.period:,}))"
        case LogTemperature():
            return f"max(1, ln(p + 1) / ln {block.length:,})"
    return type(block).__name__


def _norms(block: Attention) -> list[Fact]:
    when = ", after rope" if block.norm_after_rope else ""
    if block.q_norm is not None and block.k_norm is not None:
        q, k = (f"{norm_title(norm)}, {norm_settings(norm)}" for norm in (block.q_norm, block.k_norm))
        return [Fact("qk-norm", (q if q == k else f"q {q}; k {k}") + when)]
    found = [("q-norm", block.q_norm), ("k-norm", block.k_norm)]
    return [Fact(key, f"{norm_title(norm)}, {norm_settings(norm)}{when}") for key, norm in found if norm is not None]


def _scale(scale: float) -> str:
    if scale == 1:
        return "1, unscaled"
    inverse = round(scale**-2) if scale > 0 else 0
    root = f" = 1/√{inverse:,}" if inverse > 1 and isclose(scale, 1 / sqrt(inverse), rel_tol=1e-6) else ""
    return f"× {number(scale)}{root}"
