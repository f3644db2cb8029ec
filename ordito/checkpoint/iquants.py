"""Decoding of ggml's codebook formats IQ1, IQ2 and IQ3, and of the ternary ones, TQ1 and TQ2.

All have super-blocks of 256. In the formulas `c` is a codebook vector, whose index is stored as a low byte in `qs` and a few
high bits elsewhere, and `s` a small integer scale. The codebooks of IQ2 and IQ3 hold magnitudes, to which a sign bit for every
element is added; XXS and XS store 7 of 8 signs, as the number of negative ones is even. Layouts and formulas are those of
ggml's `ggml-quants.c`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint import codebooks
from ordito.checkpoint.unpacking import F32, U8, Blocks, scale, shift, single, unpack

_HALF = np.float32(0.5)
_DELTA = np.float32(0.125)  # IQ1 shifts its levels -1, 0, 1 up or down by this


def _even_signs() -> U8:
    """The 128 bytes with an even number of one bits, indexed by their lower 7 bits."""
    seven = np.arange(128, dtype=np.uint8)
    ones = np.unpackbits(seven[:, None], axis=1).sum(axis=1, dtype=np.uint8)
    return seven | (ones & np.uint8(1)) << np.uint8(7)


_EVEN_SIGNS = _even_signs()


def _fields(words: NDArray[Any], bits: int, count: int) -> NDArray[Any]:
    """The lowest `count` bit fields of each word, lowest first: (n, k) words -> (n, k * count)."""
    shifts = np.arange(0, bits * count, bits, dtype=words.dtype)
    return ((words[..., None] >> shifts) & words.dtype.type((1 << bits) - 1)).reshape(len(words), -1)


def _vectors(out: F32, grid: codebooks.Grid, index: NDArray[Any]) -> None:
    """out = c: the codebook vectors of `index`, without scale and sign."""
    out[...] = np.take(grid, index, axis=0).reshape(out.shape)


def _negate(out: F32, signs: U8) -> None:
    """Negate the elements whose sign bit is set; bit j of each byte is the sign of element j of 8."""
    np.negative(out, out=out, where=unpack(signs, 1, 1).view(np.bool_))


def _high_bits(low: U8, high: NDArray[Any]) -> NDArray[np.uint16]:
    """Codebook indices from their low bytes and the bits above."""
    return low | high.astype(np.uint16) << np.uint16(8)


def iq2_xxs(blocks: Blocks, out: F32) -> None:
    """x = ±d (s + 1/2) / 4 c; 8 words of 64 bits, one a group of 32: four indexes, four times 7 signs, 4 bits of s."""
    words = blocks["qs"]
    _vectors(out, codebooks.IQ2_XXS, np.ascontiguousarray(words[:, 0::2]).view(np.uint8))
    signs_and_scale = words[:, 1::2]
    _negate(out, _EVEN_SIGNS[_fields(signs_and_scale, 7, 4)])
    scale(out, single(blocks["d"]) * ((signs_and_scale >> 28).astype(np.float32) + _HALF) * np.float32(0.25))


def iq2_xs(blocks: Blocks, out: F32) -> None:
    """x = ±d (s + 1/2) / 4 c; 16 bits a group of 8: 9 of the index, 7 signs; s: 4 bits a group of 16."""
    _vectors(out, codebooks.IQ2_XS, blocks["qs"] & 511)
    _negate(out, _EVEN_SIGNS[blocks["qs"] >> 9])
    scale(out, single(blocks["d"]) * (unpack(blocks["scales"], 4, 1).astype(np.float32) + _HALF) * np.float32(0.25))


def iq2_s(blocks: Blocks, out: F32) -> None:
    """x = ±d (s + 1/2) / 4 c; as IQ2_XS, with 10 bits of the index and all 8 signs."""
    _vectors(out, codebooks.IQ2_S, _high_bits(blocks["qs"], unpack(blocks["qh"], 2, 1)))
    _negate(out, blocks["signs"])
    scale(out, single(blocks["d"]) * (unpack(blocks["scales"], 4, 1).astype(np.float32) + _HALF) * np.float32(0.25))


def iq3_xxs(blocks: Blocks, out: F32) -> None:
    """x = ±d (s + 1/2) / 2 c; one index a group of 4; four times 7 signs and 4 bits of s a group of 32."""
    _vectors(out, codebooks.IQ3_XXS, blocks["qs"])
    _negate(out, _EVEN_SIGNS[_fields(blocks["signs"], 7, 4)])
    scale(out, single(blocks["d"]) * ((blocks["signs"] >> 28).astype(np.float32) + _HALF) * _HALF)


def iq3_s(blocks: Blocks, out: F32) -> None:
    """x = ±d (2 s + 1) c; 9 bits of the index a group of 4; s: 4 bits a group of 32."""
    _vectors(out, codebooks.IQ3_S, _high_bits(blocks["qs"], unpack(blocks["qh"], 1, 1)))
    _negate(out, blocks["signs"])
    scale(out, single(blocks["d"]) * (2 * unpack(blocks["scales"], 4, 1) + np.uint8(1)))


def iq1_s(blocks: Blocks, out: F32) -> None:
    """x = d (2 s + 1) (c ± 1/8); `qh` is 16 bits a group of 32: four times 3 of the index, 3 of s, one of the sign."""
    qh = blocks["qh"]
    _vectors(out, codebooks.IQ1, _high_bits(blocks["qs"], _fields(qh, 3, 4)))
    shift(out, np.where(qh >> 15, _DELTA, -_DELTA))
    scale(out, single(blocks["d"]) * (2 * (qh >> 12 & 7) + np.uint16(1)).astype(np.float32))


def iq1_m(blocks: Blocks, out: F32) -> None:
    """x = d (2 s + 1) (c ± 1/8); `qh` is 4 bits a group of 8: 3 of the index, one of the sign; s: 3 bits a group of 16.

    Of the four words `scales` each holds four s, and above them 4 bits of the float d.
    """
    qh, words = unpack(blocks["qh"], 4, 1), blocks["scales"]
    d = np.bitwise_or.reduce(words >> 12 << np.arange(0, 16, 4, dtype=np.uint16), axis=1).view(np.float16)
    _vectors(out, codebooks.IQ1, _high_bits(blocks["qs"], qh & 7))
    shift(out, np.where(qh >> 3, _DELTA, -_DELTA))
    scale(out, single(d) * (2 * _fields(words, 3, 4) + np.uint16(1)).astype(np.float32))


def _trits(packed: U8, count: int) -> U8:
    """The first `count` base-3 digits of each byte, which is a fraction in 256ths: (n, k) -> (n, count * k), digit by digit."""
    powers = 3 ** np.arange(count, dtype=np.uint8)
    rest = packed[:, None, :] * powers[:, None]  # modulo 256: what is left of the fraction
    return (rest.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)


def tq1_0(blocks: Blocks, out: F32) -> None:
    """x = d (q - 1), q of 0 to 2, five a byte; the last 16 elements are four a byte."""
    q = np.concatenate([_trits(blocks["qs"][:, :32], 5), _trits(blocks["qs"][:, 32:], 5), _trits(blocks["qh"], 4)], axis=1)
    out[...] = q.view(np.int8) - np.int8(1)
    out *= single(blocks["d"])


def tq2_0(blocks: Blocks, out: F32) -> None:
    """x = d (q - 1), 2-bit q."""
    out[...] = unpack(blocks["qs"], 2, 32).view(np.int8) - np.int8(1)
    out *= single(blocks["d"])
