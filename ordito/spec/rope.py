"""Rotary positions (RoPE): which channels are rotated, their frequencies, and the scaling for longer contexts.

Source: Su et al., RoFormer, arXiv:2104.09864. All backends take their frequencies from here, computed in double precision
and without an array library, so that they rotate by the same angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ordito.errors import SpecError
from ordito.spec.node import Node, Size


@dataclass(frozen=True, kw_only=True)
class Scaling(Node):
    """A change of the rotary frequencies for contexts beyond the training length."""

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """The scaled frequencies (radians per position) for a sequence of `length` tokens; `inverse` are the unscaled ones."""
        raise NotImplementedError

    def magnitude(self, length: int) -> float:
        """The factor on cos and sin (so that it enters scores squared), for a sequence of `length` tokens."""
        return 1.0


@dataclass(frozen=True, kw_only=True)
class LinearScaling(Scaling):
    """Position interpolation: every frequency divided by `factor` (Chen et al., arXiv:2306.15595)."""

    factor: float

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """f / factor."""
        return [f / self.factor for f in inverse]


@dataclass(frozen=True, kw_only=True)
class DynamicScaling(Scaling):
    """Dynamic NTK-aware scaling: beyond `context` tokens theta grows with the length of the sequence."""

    factor: float
    context: Size

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """Frequencies of theta * (factor * T / context - (factor - 1)) ** (d / (d - 2)) once T > context."""
        if length <= self.context:
            return inverse
        stretch = self.factor * length / self.context - (self.factor - 1)
        return _inverse(rope.theta * stretch ** (rope.dim / (rope.dim - 2)), rope.dim)


@dataclass(frozen=True, kw_only=True)
class QwenScaling(Scaling):
    """Qwen 1's dynamic NTK-aware scaling: theta grows in steps, at each doubling of the length beyond `context`."""

    context: Size

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """Frequencies of theta * a ** (d / (d - 2)), a = 2 ** ceil(log2(T / context) + 1) - 1, at least 1."""
        if length <= self.context:
            return inverse
        stretch = 2.0 ** math.ceil(math.log2(length / self.context) + 1) - 1
        return _inverse(rope.theta * stretch ** (rope.dim / (rope.dim - 2)), rope.dim)


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling(Scaling):
    """Llama 3.1's scaling: low frequencies are divided by `factor`, high ones kept, those between interpolated linearly.

    The bounds are the wavelengths `context / low_frequency` and `context / high_frequency`. With equal bounds (Llama 4
    Scout) there is no interpolation, which would be 0/0.
    """

    factor: float
    low_frequency: float
    high_frequency: float
    context: Size

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """Each frequency scaled by the band of its wavelength 2 pi / f."""
        return [self._band(f) for f in inverse]

    def _band(self, frequency: float) -> float:
        turns = self.context * frequency / (2 * math.pi)
        if turns < self.low_frequency:
            return frequency / self.factor
        if turns > self.high_frequency or self.low_frequency == self.high_frequency:
            return frequency
        keep = (turns - self.low_frequency) / (self.high_frequency - self.low_frequency)
        return (1 - keep) * frequency / self.factor + keep * frequency


@dataclass(frozen=True, kw_only=True)
class YarnScaling(Scaling):
    """YaRN: frequencies are kept, divided by `factor`, or blended by a ramp over their index (Peng et al., arXiv:2309.00071).

    `attention_factor` multiplies cos and sin: 0.1 ln(factor) + 1 (`usual_magnitude`) unless the model says otherwise.
    """

    factor: float
    context: Size
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """A blend of f and f / factor, by a ramp between the indices of the frequencies that make `beta_fast` and `beta_slow`
        turns over `context`."""
        low, high = self._index(self.beta_fast, rope), self._index(self.beta_slow, rope)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, rope.dim - 1)
        width = max(high - low, 1e-3)
        scaled = []
        for i, f in enumerate(inverse):
            ramp = min(max((i - low) / width, 0.0), 1.0)
            scaled.append(ramp * f / self.factor + (1 - ramp) * f)
        return scaled

    def _index(self, turns: float, rope: Rope) -> float:
        """The (fractional) index of the frequency that makes `turns` turns over `context`."""
        return rope.dim * math.log(self.context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    def magnitude(self, length: int) -> float:
        """The attention factor."""
        return self.attention_factor

    @staticmethod
    def usual_magnitude(factor: float, slope: float = 1.0) -> float:
        """YaRN's default attention factor, 0.1 slope ln(factor) + 1 (section 3.4; the slope is DeepSeek's `mscale`, else 1)."""
        return 0.1 * slope * math.log(factor) + 1 if factor > 1 else 1.0


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling(Scaling):
    """LongRoPE: a divisor for each frequency, with separate lists for short and long sequences (Ding et al., arXiv:2402.13753).

    A sequence longer than `context` uses `long` at *all* of its positions. `attention_factor` multiplies cos and sin; beyond
    `context` a `long_attention_factor` may replace it (Phi-3.5-MoE).
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    context: Size
    attention_factor: float
    long_attention_factor: float | None = None

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """f_i / short_i, or f_i / long_i beyond `context`."""
        divisors = self.long if length > self.context else self.short
        return [f / divisor for f, divisor in zip(inverse, divisors, strict=True)]

    def magnitude(self, length: int) -> float:
        """The attention factor."""
        if self.long_attention_factor is not None and length > self.context:
            return self.long_attention_factor
        return self.attention_factor


@dataclass(frozen=True, kw_only=True)
class DivisorScaling(Scaling):
    """A divisor for each frequency, as GGUF files store them (`rope_freqs`)."""

    divisors: tuple[float, ...]

    def apply(self, inverse: list[float], rope: Rope, length: int) -> list[float]:
        """f_i / divisor_i."""
        return [f / divisor for f, divisor in zip(inverse, self.divisors, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Rope(Node):
    """Rotary positions on the first `dim` channels of each head; the others are left as they are (partial rope).

    `layout` says which channels form a pair: `half` (i, i + dim/2) or `interleaved` (2i, 2i + 1).
    """

    dim: Size
    theta: float
    layout: Literal["half", "interleaved"] = "half"
    scaling: Scaling | None = None

    def check(self) -> None:
        """Raise `SpecError` for an odd `dim`, a theta of at most 1, or divisors that are not dim / 2 positive numbers."""
        if self.dim % 2:
            raise SpecError(f"Rope.dim: got {self.dim}, expected an even number, since channels turn in pairs")
        if self.dim == 2 and isinstance(self.scaling, (DynamicScaling, QwenScaling)):
            raise SpecError("Rope.dim: got 2, expected at least 4 with dynamic scaling, whose exponent is d / (d - 2)")
        if self.theta <= 1:
            raise SpecError(f"Rope.theta: got {self.theta}, expected more than 1")
        for field in ("short", "long", "divisors"):
            values = getattr(self.scaling, field, None)
            if values is not None and (len(values) != self.dim // 2 or min(values) <= 0):
                raise SpecError(f"Rope.scaling.{field}: got {len(values)} values, expected {self.dim // 2} above zero")

    def frequencies(self, length: int) -> list[float]:
        """Radians per position of each pair, (dim / 2,), for a sequence of `length` tokens: theta ** (-2i / dim), scaled."""
        inverse = _inverse(self.theta, self.dim)
        return self.scaling.apply(inverse, self, length) if self.scaling else inverse

    def magnitude(self, length: int) -> float:
        """The factor on cos and sin, for a sequence of `length` tokens."""
        return self.scaling.magnitude(length) if self.scaling else 1.0

    @property
    def depends_on_length(self) -> bool:
        """Whether the frequencies change with the length of the sequence (so that cached keys go stale)."""
        return isinstance(self.scaling, (DynamicScaling, LongRopeScaling, QwenScaling))


def _inverse(theta: float, dim: int) -> list[float]:
    return [theta ** (-2 * i / dim) for i in range(dim // 2)]
