"""Rotary positions in published configurations: config.json before and since transformers 5, and GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from ordito.errors import ConfigError
from ordito.families.family import Header
from ordito.families.reader import Reader, shown
from ordito.spec import (
    DivisorScaling,
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    QwenScaling,
    Rope,
    Scaling,
    YarnScaling,
)


def rope_from_config(
    config: Reader,
    head_dim: int,
    context: int,
    theta: float = 10000.0,
    own_keys: Collection[str] = (),
    partial: float = 1.0,
) -> Rope:
    """The rope of a model that has the same one in all layers.

    Reads `rope_parameters` (transformers 5: everything in one object) or `rope_theta`, `rope_scaling` and
    `partial_rotary_factor` (before). `theta` and `partial` are the family's defaults, `own_keys` further keys of these objects
    that the family reads itself. Raises `ConfigError` for an unknown scaling or a wrong value.
    """
    parameters = config.section("rope_parameters")
    scaling = config.section("rope_scaling")
    top_theta, top_partial = config.real("rope_theta", theta), config.real("partial_rotary_factor", partial)
    source = parameters or scaling or Reader({}, config.where)
    outer_context = config.size("original_max_position_embeddings", None)
    original = outer_context or context
    return rope_from_parameters(source, head_dim, original, context, top_theta, top_partial, own_keys)


def rope_from_parameters(
    source: Reader,
    head_dim: int,
    original: int,
    context: int,
    theta: float,
    partial: float = 1.0,
    own_keys: Collection[str] = (),
) -> Rope:
    """The rope of one `rope_parameters` or `rope_scaling` object.

    `original` (the context before scaling), `theta` and `partial` are the defaults of its keys; `context` is the model's.
    """
    theta = source.real("rope_theta", theta)
    part = source.real("partial_rotary_factor", partial)
    if part > 1:
        raise source.fail("partial_rotary_factor", part, "at most 1")
    dim = int(head_dim * part)
    kind = source.text("rope_type", source.text("type", "default"))
    scaling = _scaling(source, kind, original, context)
    source.finish({"type", *own_keys})
    return Rope(dim=dim, theta=theta, scaling=scaling)


def _scaling(source: Reader, kind: str, original: int, context: int) -> Scaling | None:
    if kind == "default":
        return None
    original = source.size("original_max_position_embeddings", original)
    if kind in ("longrope", "su") or "short_factor" in source.values:  # the first Phi-3 files called it yarn
        if original == 1:
            raise source.fail("original_max_position_embeddings", original, "at least 2 for longrope")
        stretch = source.real("factor", context / original)
        default = math.sqrt(1 + math.log(stretch) / math.log(original)) if stretch > 1 else 1.0
        short, long = source.reals("short_factor"), source.reals("long_factor")
        factor = source.real("attention_factor", default)
        if short == long and source.values.get("attention_factor") == 1:  # as `parameters_from_rope` writes it
            return DivisorScaling(divisors=short)
        return LongRopeScaling(short=short, long=long, context=original, attention_factor=factor)
    if kind not in (kinds := ("linear", "dynamic", "llama3", "yarn")):
        raise source.fail("rope_type", kind, f"one of default, {', '.join(kinds)}, longrope")
    factor = source.real("factor")
    if kind == "linear":
        return LinearScaling(factor=factor)
    if kind == "dynamic":
        return DynamicScaling(factor=factor, context=original)
    if kind == "llama3":
        low, high = source.real("low_freq_factor"), source.real("high_freq_factor")
        return Llama3Scaling(factor=factor, low_frequency=low, high_frequency=high, context=original)
    default = _yarn_attention_factor(source, factor)
    return YarnScaling(
        factor=factor,
        context=original,
        beta_fast=source.real("beta_fast", 32.0),
        beta_slow=source.real("beta_slow", 1.0),
        truncate=source.flag("truncate", True),
        attention_factor=source.real("attention_factor", default),
    )


def _yarn_attention_factor(source: Reader, factor: float) -> float:
    """YaRN's default attention factor; with `mscale` and `mscale_all_dim` (DeepSeek) the ratio of theirs."""
    usual = YarnScaling.usual_magnitude
    mscale, mscale_all = source.real_or_none("mscale"), source.real_or_none("mscale_all_dim")
    return usual(factor, mscale) / usual(factor, mscale_all) if mscale and mscale_all else usual(factor)


def parameters_from_rope(rope: Rope, head_dim: int) -> dict[str, Any]:
    """The `rope_parameters` object of a rope: the inverse of `rope_from_parameters`."""
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.theta}
    if rope.dim != head_dim:
        parameters["partial_rotary_factor"] = rope.dim / head_dim
    match rope.scaling:
        case LinearScaling(factor=factor):
            return parameters | {"rope_type": "linear", "factor": factor}
        case DynamicScaling(factor=factor, context=context):
            return parameters | {"rope_type": "dynamic", "factor": factor, "original_max_position_embeddings": context}
        case Llama3Scaling() as s:
            return parameters | {
                "rope_type": "llama3",
                "factor": s.factor,
                "low_freq_factor": s.low_frequency,
                "high_freq_factor": s.high_frequency,
                "original_max_position_embeddings": s.context,
            }
        case YarnScaling() as s:
            return parameters | {
                "rope_type": "yarn",
                "factor": s.factor,
                "beta_fast": s.beta_fast,
                "beta_slow": s.beta_slow,
                "truncate": s.truncate,
                "attention_factor": s.attention_factor,
                "original_max_position_embeddings": s.context,
            }
        case LongRopeScaling() as s:
            return parameters | {
                "rope_type": "longrope",
                "short_factor": list(s.short),
                "long_factor": list(s.long),
                "attention_factor": s.attention_factor,
                "original_max_position_embeddings": s.context,
            }
        case DivisorScaling(divisors=divisors):
            # LongRoPE with equal lists for short and long sequences divides by them at any length.
            return parameters | {
                "rope_type": "longrope",
                "short_factor": list(divisors),
                "long_factor": list(divisors),
                "attention_factor": 1.0,
            }
    return parameters


LLAMA3_BANDS = ((1.0, 4.0, 8192), (1.0, 1.0, 8192))
"""Low and high frequency factor and original context of the published `llama3` scalings: Llama 3's and Llama 4 Scout's. GGUF
stores only the divisors that they give."""


def rope_from_header(header: Header, reader: Reader, dim: int, context: int) -> Rope:
    """The rope of a GGUF file, by its metadata and the tensors `rope_freqs` or `rope_factors_*` (divisors of frequencies)."""
    theta = reader.real("rope.freq_base", 10000.0)
    kind = reader.text("rope.scaling.type", "none")
    factor = reader.real("rope.scaling.factor", None) or reader.real("rope.scale_linear", None)
    original = reader.size("rope.scaling.original_context_length", context)
    reader.get("rope.scaling.finetuned", None)
    if "rope_freqs.weight" in header.shapes:
        plain = Rope(dim=dim, theta=theta)
        return Rope(dim=dim, theta=theta, scaling=_recognise(plain, _divisors(header, "rope_freqs.weight", dim)))
    scaling: Scaling | None = None
    if "rope_factors_long.weight" in header.shapes:
        short, long = (_divisors(header, f"rope_factors_{length}.weight", dim) for length in ("short", "long"))
        magnitude = reader.real("rope.scaling.attn_factor", 1.0)
        scaling = LongRopeScaling(short=short, long=long, context=original, attention_factor=magnitude)
    elif kind == "linear" and factor is not None and factor != 1.0:
        scaling = LinearScaling(factor=factor)
    elif kind == "yarn" and factor is not None:
        magnitude = reader.real("rope.scaling.attn_factor", 1.0) * YarnScaling.usual_magnitude(factor)
        fast = reader.real("rope.scaling.yarn_beta_fast", 32.0)
        slow = reader.real("rope.scaling.yarn_beta_slow", 1.0)
        scaling = YarnScaling(factor=factor, context=original, beta_fast=fast, beta_slow=slow, attention_factor=magnitude)
    elif kind not in ("none", "linear", "yarn", "longrope"):
        raise reader.fail("rope.scaling.type", kind, "one of none, linear, yarn, longrope")
    return Rope(dim=dim, theta=theta, scaling=scaling)


def _divisors(header: Header, name: str, dim: int) -> tuple[float, ...]:
    """The divisors of the dim / 2 frequencies in a tensor of a GGUF file.

    Raises `ConfigError` if the tensor is missing, has another shape, or holds something other than finite numbers above zero.
    """
    where = f"GGUF file of {header.architecture}: the tensor {name}"
    if name not in header.shapes:
        raise ConfigError(f"{where} is missing, expected it beside the other divisors of frequencies")
    if (shape := header.shapes[name]) != (dim // 2,):
        raise ConfigError(f"{where} has shape {shape}, expected {(dim // 2,)}")
    divisors = tuple(header.values(name))
    if not all(0 < divisor < math.inf for divisor in divisors):
        raise ConfigError(f"{where} holds {shown(divisors)}, expected finite numbers above zero")
    return divisors


def _recognise(plain: Rope, divisors: tuple[float, ...]) -> Scaling:
    """The `llama3` scaling with bands of `LLAMA3_BANDS` that gives these divisors, or else a scaling by the divisors."""
    frequencies = plain.frequencies(1)
    for low, high, original in LLAMA3_BANDS:
        guess = Llama3Scaling(factor=max(divisors), low_frequency=low, high_frequency=high, context=original)
        scaled = guess.apply(frequencies, plain, 1)
        if len(divisors) == len(scaled) and all(
            abs(f / s - d) <= 1e-5 * d for f, s, d in zip(frequencies, scaled, divisors, strict=True)
        ):
            return guess
    return DivisorScaling(divisors=divisors)


def tensors_from_rope(rope: Rope) -> dict[str, list[float]]:
    """The tensors of a GGUF file that hold a rope's divisors of frequencies, for which metadata has no keys."""
    match rope.scaling:
        case DivisorScaling(divisors=divisors):
            return {"rope_freqs.weight": list(divisors)}
        case Llama3Scaling():
            plain = Rope(dim=rope.dim, theta=rope.theta).frequencies(1)
            return {"rope_freqs.weight": [f / scaled for f, scaled in zip(plain, rope.frequencies(1), strict=True)]}
        case LongRopeScaling(short=short, long=long):
            return {"rope_factors_short.weight": list(short), "rope_factors_long.weight": list(long)}
    return {}


def as_divisors(rope: Rope) -> Rope:
    """The same rope as a GGUF file holds it: with divisors of frequencies in place of the scaling that gives them."""
    divisors = tensors_from_rope(rope).get("rope_freqs.weight")
    return replace(rope, scaling=DivisorScaling(divisors=tuple(divisors))) if divisors else rope


def metadata_from_rope(rope: Rope) -> dict[str, Any]:
    """The GGUF metadata of a rope: with `tensors_from_rope`, the inverse of `rope_from_header`.

    Raises `ConfigError` for a scaling that no key expresses.
    """
    if isinstance(rope.scaling, (DynamicScaling, QwenScaling)):
        raise ConfigError(f"GGUF metadata has no key for {type(rope.scaling).__name__}; save as safetensors instead")
    metadata: dict[str, Any] = {"rope.dimension_count": rope.dim, "rope.freq_base": rope.theta}
    match rope.scaling:
        case LinearScaling(factor=factor):
            metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case LongRopeScaling() as s:
            metadata |= {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": s.context,
                "rope.scaling.attn_factor": s.attention_factor,
            }
        case YarnScaling() as s:
            metadata |= {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": s.factor,
                "rope.scaling.original_context_length": s.context,
                "rope.scaling.attn_factor": s.attention_factor / YarnScaling.usual_magnitude(s.factor),
                "rope.scaling.yarn_beta_fast": s.beta_fast,
                "rope.scaling.yarn_beta_slow": s.beta_slow,
            }
    return metadata
