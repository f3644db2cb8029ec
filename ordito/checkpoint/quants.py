"""Decoding (dequantization) to float32 of ggml's block formats and of short floats, in vectorised numpy.

A block format stores `block_size` neighbouring elements of a row together with the scales that they share. Each format
below is a layout (a numpy structured type, in the order of the bytes in the file) and one small function that decodes many
blocks at once. The formulas and the layouts are those of ggml's `ggml-common.h` and `ggml-quants.c`; results are equal to
the `gguf` package's bit for bit, because the same float32 operations are done in the same order.

In the formulas `d`, `m` are 16-bit floats, `q` is the stored integer, and `packed[j] = a | b << 4` means that one byte
carries two elements that are far apart in the row, as the docstring of `unpack` draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ordito.checkpoint import iquants
from ordito.checkpoint.unpacking import F32, U8, Blocks, lookup, scale, shift, single, unpack

# ---------------------------------------------------------------------------------------------------------------------
# One element a "block": the short floats.


def _plain(blocks: Blocks, out: F32) -> None:
    """F16, F64: numpy converts them itself."""
    out[:, 0] = blocks


def _bf16(blocks: Blocks, out: F32) -> None:
    """BF16: the upper half of a float32."""
    bits = out.view(np.uint32)
    bits[:, 0] = blocks
    bits <<= np.uint32(16)


def _f8_e4m3_values() -> F32:
    """All values of OCP E4M3 ("fn"): (-1)^s 2^(e - 7) (1 + m/8), subnormals below, no infinity, NaN is S.1111.111."""
    code = np.arange(256)
    exponent, mantissa = (code >> 3) & 15, (code & 7) / 8
    magnitude = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    magnitude[(code & 127) == 127] = np.nan
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


_F8_E4M3 = _f8_e4m3_values()
# E5M2 is the upper byte of a float16.
_F8_E5M2 = (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


def _f8_e4m3(blocks: Blocks, out: F32) -> None:
    """8-bit floats of OCP's specification (https://arxiv.org/abs/2209.05433), E4M3."""
    np.take(_F8_E4M3, blocks, out=out[:, 0], mode="clip")


def _f8_e5m2(blocks: Blocks, out: F32) -> None:
    """8-bit floats of OCP's specification, E5M2."""
    np.take(_F8_E5M2, blocks, out=out[:, 0], mode="clip")


# ---------------------------------------------------------------------------------------------------------------------
# Blocks of 32.


def _q4_0(blocks: Blocks, out: F32) -> None:
    """x = d (q - 8), 4-bit q; packed[j] = q[j] | q[j + 16] << 4."""
    q = unpack(blocks["qs"], 4, 16).view(np.int8)
    q -= np.int8(8)
    out[...] = q
    out *= single(blocks["d"])


def _q4_1(blocks: Blocks, out: F32) -> None:
    """x = d q + m, 4-bit q; packed as Q4_0."""
    out[...] = unpack(blocks["qs"], 4, 16)
    out *= single(blocks["d"])
    out += single(blocks["m"])


def _five_bits(blocks: Blocks) -> U8:
    """The 5-bit q of Q5_0 and Q5_1: 4 bits packed as in Q4_0, and bit j of `qh` is the fifth bit of q[j]."""
    q = np.unpackbits(blocks["qh"], axis=1, bitorder="little")
    q <<= np.uint8(4)
    q |= unpack(blocks["qs"], 4, 16)
    return q


def _q5_0(blocks: Blocks, out: F32) -> None:
    """x = d (q - 16), 5-bit q."""
    q = _five_bits(blocks).view(np.int8)
    q -= np.int8(16)
    out[...] = q
    out *= single(blocks["d"])


def _q5_1(blocks: Blocks, out: F32) -> None:
    """x = d q + m, 5-bit q."""
    out[...] = _five_bits(blocks)
    out *= single(blocks["d"])
    out += single(blocks["m"])


def _q8_0(blocks: Blocks, out: F32) -> None:
    """x = d q, signed 8-bit q."""
    out[...] = blocks["qs"]
    out *= single(blocks["d"])


# The 16 levels of IQ4: not evenly spaced, denser near zero, as weights are (`kvalues_iq4nl` in ggml-common.h).
_IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def _iq4_nl(blocks: Blocks, out: F32) -> None:
    """x = d level[q], 4-bit q; packed as Q4_0."""
    out[...] = lookup(_IQ4_LEVELS, unpack(blocks["qs"], 4, 16))
    out *= single(blocks["d"])


# Twice the values of OCP's 4-bit float E2M1, so that they are integers; the scale below is halved in return.
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


def _mxfp4(blocks: Blocks, out: F32) -> None:
    """x = 2^(e - 127) E2M1[q], one 8-bit exponent e a block (OCP Microscaling Formats 1.0); packed as Q4_0.

    With the doubled table the scale is 2^(e - 128), which is subnormal for e < 2: its one set bit is in the mantissa then.
    """
    out[...] = lookup(_E2M1_DOUBLED, unpack(blocks["qs"], 4, 16))
    exponent = blocks["e"].astype(np.uint32)
    bits = np.where(exponent < 2, np.uint32(0x00200000) << exponent, (exponent - np.uint32(1)) << np.uint32(23))
    out *= bits.astype(np.uint32).view(np.float32).reshape(-1, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Super-blocks of 256: groups of 16 or 32 elements have small integer scales, which share the float scales d and dmin.


def _six_bit_scales(packed: U8) -> tuple[U8, U8]:
    """The 8 scales and 8 minima, 6 bits each, that Q4_K and Q5_K keep in 12 bytes: (n, 12) -> (n, 8), (n, 8).

    Scales 0-3 are the low 6 bits of bytes 0-3 and minima 0-3 those of bytes 4-7. Bytes 8-11 hold the low 4 bits of scales
    4-7 and, above them, of minima 4-7, whose high 2 bits fill the tops of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | ((first >> 2) & 0x30)], axis=1)
    minima = np.concatenate([second & 0x3F, (third >> 4) | ((second >> 2) & 0x30)], axis=1)
    return scales, minima


def _q2_k(blocks: Blocks, out: F32) -> None:
    """x = (d s) q - (dmin m), 2-bit q; s, m: 4 bits each a group of 16."""
    out[...] = unpack(blocks["qs"], 2, 32)
    scale(out, single(blocks["d"]) * (blocks["scales"] & 0x0F))
    shift(out, single(blocks["dmin"]) * (blocks["scales"] >> 4))


def _q3_k(blocks: Blocks, out: F32) -> None:
    """x = d (s - 32) (q - 4), 3-bit q; s: 6 bits a group of 16.

    The third bit of q[32 i + j] is bit i of hmask[j]. Scales: low 4 bits in bytes 0-7, high 2 bits in bytes 8-11.
    """
    q = unpack(blocks["hmask"], 1, 32)
    q <<= np.uint8(2)
    q |= unpack(blocks["qs"], 2, 32)
    signed_q = q.view(np.int8)
    signed_q -= np.int8(4)
    out[...] = signed_q
    scales = unpack(blocks["scales"][:, :8], 4, 8) | (unpack(blocks["scales"][:, 8:], 2, 4) << 4)
    scale(out, single(blocks["d"]) * (scales.view(np.int8) - np.int8(32)))


def _q4_k(blocks: Blocks, out: F32) -> None:
    """x = (d s) q - (dmin m), 4-bit q; s, m: 6 bits each a group of 32."""
    out[...] = unpack(blocks["qs"], 4, 32)
    scales, minima = _six_bit_scales(blocks["scales"])
    scale(out, single(blocks["d"]) * scales)
    shift(out, single(blocks["dmin"]) * minima)


def _q5_k(blocks: Blocks, out: F32) -> None:
    """x = (d s) q - (dmin m), 5-bit q; as Q4_K, and the fifth bit of q[32 i + j] is bit i of qh[j]."""
    q = unpack(blocks["qh"], 1, 32)
    q <<= np.uint8(4)
    q |= unpack(blocks["qs"], 4, 32)
    out[...] = q
    scales, minima = _six_bit_scales(blocks["scales"])
    scale(out, single(blocks["d"]) * scales)
    shift(out, single(blocks["dmin"]) * minima)


def _q6_k(blocks: Blocks, out: F32) -> None:
    """x = (d s) (q - 32), 6-bit q: 4 bits in ql, 2 in qh; s: signed 8 bits a group of 16."""
    q = unpack(blocks["qh"], 2, 32)
    q <<= np.uint8(4)
    q |= unpack(blocks["ql"], 4, 64)
    signed_q = q.view(np.int8)
    signed_q -= np.int8(32)
    out[...] = signed_q
    scale(out, single(blocks["d"]) * blocks["scales"])


def _iq4_xs(blocks: Blocks, out: F32) -> None:
    """x = d (s - 32) level[q], 4-bit q; s: 6 bits a group of 32, 4 of them in scales_l and 2 in scales_h."""
    out[...] = lookup(_IQ4_LEVELS, unpack(blocks["qs"], 4, 16))
    scales = unpack(blocks["scales_l"], 4, 1) | (unpack(blocks["scales_h"], 2, 1) << 4)
    scale(out, single(blocks["d"]) * (scales.view(np.int8) - np.int8(32)))


# Output elements decoded at a time: few enough for a core's cache and to bound the temporaries, many enough to hide the
# cost of calling numpy (measured: smaller chunks are slower for every format).
CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Format:
    """How one encoding of floats is laid out in a file and decoded."""

    block_size: int  # elements
    layout: np.dtype[Any]  # bytes of a block, little-endian
    decode: Callable[[Blocks, F32], None]  # (n,) blocks -> fills (n, block_size)


def _block(size: int, decode: Callable[[Blocks, F32], None], *fields: tuple[str, str] | tuple[str, str, int]) -> Format:
    return Format(size, np.dtype(list(fields)), decode)


FORMATS: dict[str, Format] = {
    "f16": Format(1, np.dtype("<f2"), _plain),
    "bf16": Format(1, np.dtype("<u2"), _bf16),
    "f64": Format(1, np.dtype("<f8"), _plain),
    "f8_e4m3": Format(1, np.dtype("u1"), _f8_e4m3),
    "f8_e5m2": Format(1, np.dtype("u1"), _f8_e5m2),
    "q4_0": _block(32, _q4_0, ("d", "<f2"), ("qs", "u1", 16)),
    "q4_1": _block(32, _q4_1, ("d", "<f2"), ("m", "<f2"), ("qs", "u1", 16)),
    "q5_0": _block(32, _q5_0, ("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)),
    "q5_1": _block(32, _q5_1, ("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", 16)),
    "q8_0": _block(32, _q8_0, ("d", "<f2"), ("qs", "i1", 32)),
    "q2_k": _block(256, _q2_k, ("scales", "u1", 16), ("qs", "u1", 64), ("d", "<f2"), ("dmin", "<f2")),
    "q3_k": _block(256, _q3_k, ("hmask", "u1", 32), ("qs", "u1", 64), ("scales", "u1", 12), ("d", "<f2")),
    "q4_k": _block(256, _q4_k, ("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qs", "u1", 128)),
    "q5_k": _block(256, _q5_k, ("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", 12), ("qh", "u1", 32), ("qs", "u1", 128)),
    "q6_k": _block(256, _q6_k, ("ql", "u1", 128), ("qh", "u1", 64), ("scales", "i1", 16), ("d", "<f2")),
    "iq4_nl": _block(32, _iq4_nl, ("d", "<f2"), ("qs", "u1", 16)),
    "iq4_xs": _block(256, _iq4_xs, ("d", "<f2"), ("scales_h", "u1", 2), ("scales_l", "u1", 4), ("qs", "u1", 128)),
    "iq1_s": _block(256, iquants.iq1_s, ("d", "<f2"), ("qs", "u1", 32), ("qh", "<u2", 8)),
    "iq1_m": _block(256, iquants.iq1_m, ("qs", "u1", 32), ("qh", "u1", 16), ("scales", "<u2", 4)),
    "iq2_xxs": _block(256, iquants.iq2_xxs, ("d", "<f2"), ("qs", "<u4", 16)),
    "iq2_xs": _block(256, iquants.iq2_xs, ("d", "<f2"), ("qs", "<u2", 32), ("scales", "u1", 8)),
    "iq2_s": _block(
        256, iquants.iq2_s, ("d", "<f2"), ("qs", "u1", 32), ("signs", "u1", 32), ("qh", "u1", 8), ("scales", "u1", 8)
    ),
    "iq3_xxs": _block(256, iquants.iq3_xxs, ("d", "<f2"), ("qs", "u1", 64), ("signs", "<u4", 8)),
    "iq3_s": _block(
        256, iquants.iq3_s, ("d", "<f2"), ("qs", "u1", 64), ("qh", "u1", 8), ("signs", "u1", 32), ("scales", "u1", 4)
    ),
    "tq1_0": _block(256, iquants.tq1_0, ("qs", "u1", 48), ("qh", "u1", 4), ("d", "<f2")),
    "tq2_0": _block(256, iquants.tq2_0, ("qs", "u1", 64), ("d", "<f2")),
    "mxfp4": _block(32, _mxfp4, ("e", "u1"), ("qs", "u1", 16)),
}


def dequantize(encoding: str, data: U8) -> F32:
    """Decode all blocks of `data` (1-D, a whole number of blocks) into a fresh 1-D float32 array.

    Besides the result, memory for one chunk is needed. Damaged scales (infinities, NaN) give infinities and NaN, without
    warnings: checking that weights are finite is left to the caller.

    >>> dequantize("bf16", np.array([0x80, 0x3F, 0x20, 0xC0], np.uint8))
    array([ 1. , -2.5], dtype=float32)
    """
    form = FORMATS[encoding]
    blocks = data.view(form.layout)
    out = np.empty((blocks.shape[0], form.block_size), np.float32)
    step = CHUNK // form.block_size
    with np.errstate(all="ignore"):
        for start in range(0, blocks.shape[0], step):
            form.decode(blocks[start : start + step], out[start : start + step])
    return out.reshape(-1)
