"""Descriptions of rotary position embeddings."""

from __future__ import annotations

from ordito.drawing.facts import Fact
from ordito.drawing.sizes import number
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


def rope_facts(rope: Rope, head_dim: int) -> list[Fact]:
    """The base, the rotated channels, and the scaling of the frequencies."""
    part = f" on {rope.dim} of {head_dim}" if rope.dim != head_dim else ""
    pairs = ", interleaved" if rope.layout == "interleaved" else ""
    facts = [Fact("rope", f"θ {number(rope.theta)}{part}{pairs}")]
    return facts if rope.scaling is None else [*facts, Fact("scaling", scaling(rope.scaling))]


def scaling(by: Scaling) -> str:
    """A frequency scaling with its settings."""
    match by:
        case LinearScaling():
            return f"linear, ÷ {number(by.factor)}"
        case DynamicScaling():
            return f"dynamic NTK × {number(by.factor)} beyond {by.context:,}"
        case QwenScaling():
            return f"dynamic NTK in steps beyond {by.context:,}"
        case Llama3Scaling():
            return (
                f"Llama 3, ÷ {number(by.factor)} from {by.context:,}, "
                f"low {number(by.low_frequency)}, high {number(by.high_frequency)}"
            )
        case YarnScaling():
            usual = (by.beta_fast, by.beta_slow) == (32, 1)
            betas = "" if usual else f", β {number(by.beta_fast)} to {number(by.beta_slow)}"
            whole = "" if by.truncate else ", not truncated"
            return (
                f"YaRN × {number(by.factor)} from {by.context:,}{betas}{whole}, attention factor {number(by.attention_factor)}"
            )
        case LongRopeScaling():
            beyond = "" if by.long_attention_factor is None else f", {number(by.long_attention_factor)} beyond"
            return (
                f"LongRoPE, ÷ {_range(by.short)} up to {by.context:,}, ÷ {_range(by.long)} beyond, "
                f"attention factor {number(by.attention_factor)}{beyond}"
            )
        case DivisorScaling():
            return f"÷ {_range(by.divisors)}"
    return type(by).__name__


def _range(divisors: tuple[float, ...]) -> str:
    return f"{number(min(divisors))}–{number(max(divisors))}"
