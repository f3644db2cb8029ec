"""Block formats: bit-equal to the gguf package on random bytes, whatever the scales are."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import quants as gguf_quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize as gguf_dequantize

from ordito.checkpoint import codebooks, quants
from ordito.checkpoint.quants import FORMATS, dequantize
from ordito.checkpoint.stored import ENCODINGS, StoredTensor
from ordito.errors import CheckpointError

IN_GGUF = [name for name in FORMATS if not name.startswith("f8") and name != "f64"]
SPECIAL_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x3C00]


def random_blocks(name: str, count: int) -> np.ndarray:
    """Random bytes; the float scales of every second block are zeros, subnormals, infinities, NaN, extremes in turn."""
    form = FORMATS[name]
    raw = np.random.default_rng(7).integers(0, 256, count * form.layout.itemsize, dtype=np.uint8)
    for field in form.layout.names or ():
        if form.layout[field] == np.float16:
            special = raw.view(form.layout)[field][::2].view(np.uint16)
            special[:] = np.resize(SPECIAL_HALVES, special.shape)
    return raw


def assert_same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    """Equal bit for bit (so -0 is not 0), but one NaN is as good as another: processors differ in its payload."""
    assert got.dtype == expected.dtype == np.float32
    assert got.shape == expected.shape
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    real = ~np.isnan(expected)
    np.testing.assert_array_equal(got.view(np.uint32)[real], expected.view(np.uint32)[real])


@pytest.mark.parametrize("name", IN_GGUF)
def test_bits_equal_those_of_gguf(name: str) -> None:
    raw = random_blocks(name, 997)
    with np.errstate(all="ignore"):
        expected = gguf_dequantize(raw, GGMLQuantizationType[name.upper()])
    assert np.isfinite(expected).mean() > 0.3
    assert_same_bits(dequantize(name, raw), expected)


@pytest.mark.parametrize("name", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_codebooks_are_those_of_gguf(name: str) -> None:
    theirs = getattr(gguf_quants, name)
    theirs.init_grid()
    ours = getattr(codebooks, "IQ1" if name.startswith("IQ1") else name)
    np.testing.assert_array_equal(ours, theirs.grid.reshape(theirs.grid_shape))


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_result_does_not_depend_on_chunks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = random_blocks(name, 37)
    whole = dequantize(name, raw)
    monkeypatch.setattr(quants, "CHUNK", 5 * FORMATS[name].block_size)
    assert_same_bits(dequantize(name, raw), whole)


@pytest.mark.parametrize("name", IN_GGUF)
def test_sizes_equal_those_of_gguf(name: str) -> None:
    expected = GGML_QUANT_SIZES[GGMLQuantizationType[name.upper()]]
    assert (ENCODINGS[name].block_size, ENCODINGS[name].block_bytes) == expected


def f8_by_definition(code: int, exponent_bits: int) -> float:
    """The OCP specification, one number at a time."""
    mantissa_bits = 7 - exponent_bits
    bias = 2 ** (exponent_bits - 1) - 1
    exponent, mantissa = (code & 127) >> mantissa_bits, code & (2**mantissa_bits - 1)
    sign = -1.0 if code & 128 else 1.0
    if exponent_bits == 5 and exponent == 31:
        return float("nan") if mantissa else sign * float("inf")
    if exponent_bits == 4 and code & 127 == 127:
        return float("nan")
    if exponent == 0:
        return float(sign * mantissa * 2.0 ** (1 - bias - mantissa_bits))
    return float(sign * (1 + mantissa / 2**mantissa_bits) * 2.0 ** (exponent - bias))


@pytest.mark.parametrize(("name", "exponent_bits"), [("f8_e4m3", 4), ("f8_e5m2", 5)])
def test_all_8_bit_floats(name: str, exponent_bits: int) -> None:
    expected = np.array([f8_by_definition(code, exponent_bits) for code in range(256)], np.float32)
    assert_same_bits(dequantize(name, np.arange(256, dtype=np.uint8)), expected)


def test_largest_8_bit_floats() -> None:
    assert np.nanmax(dequantize("f8_e4m3", np.arange(256, dtype=np.uint8))) == 448
    assert dequantize("f8_e5m2", np.array([0x7B], np.uint8))[0] == 57344


def test_f64_is_rounded_to_f32() -> None:
    values = np.array([0.1, -1e300, 1 / 3, 5e-324])
    with np.errstate(all="ignore"):
        expected = values.astype(np.float32)
    assert_same_bits(dequantize("f64", values.view(np.uint8)), expected)


def test_f32_is_a_view() -> None:
    raw = np.arange(6, dtype="<f4")
    tensor = StoredTensor("w", (2, 3), "f32", raw.view(np.uint8))
    values = tensor.to_float32()
    assert np.shares_memory(values, raw)
    np.testing.assert_array_equal(values, [[0, 1, 2], [3, 4, 5]])


def test_misaligned_f32_is_copied() -> None:
    raw = np.zeros(25, np.uint8)
    raw[1:] = np.arange(6, dtype="<f4").view(np.uint8)
    values = StoredTensor("w", (6,), "f32", raw[1:]).to_float32()
    assert values.flags.aligned
    np.testing.assert_array_equal(values, np.arange(6))


def test_quantized_is_fresh_and_writable() -> None:
    values = StoredTensor("w", (2, 32), "q8_0", np.zeros(68, np.uint8)).to_float32()
    assert values.flags.writeable
    assert values.shape == (2, 32)


def test_integers_are_not_weights() -> None:
    tensor = StoredTensor("ids", (2,), "i32", np.array([1, -2], "<i4").view(np.uint8))
    np.testing.assert_array_equal(tensor.to_numpy(), [1, -2])
    with pytest.raises(CheckpointError, match="'ids'.*to_numpy"):
        tensor.to_float32()


def test_booleans_of_any_byte() -> None:
    tensor = StoredTensor("mask", (3,), "bool", np.array([0, 1, 7], np.uint8))
    np.testing.assert_array_equal(tensor.to_numpy(), [False, True, True])
    assert tensor.to_numpy().view(np.uint8).max() == 1


def test_numpy_has_no_bf16() -> None:
    with pytest.raises(CheckpointError, match="bf16.*to_float32"):
        StoredTensor("w", (1,), "bf16", np.zeros(2, np.uint8)).to_numpy()


@pytest.mark.parametrize(
    ("shape", "encoding", "nbytes", "message"),
    [
        ((2, 3), "f32", 23, "expected a 1-D uint8 array of 24 bytes"),
        ((2, 31), "q4_0", 36, "multiple of 32"),
        ((64, 1), "q8_0", 68, "multiple of 32"),
        ((), "q8_0", 34, "multiple of 32"),
        ((-1, -1), "u8", 1, "at least 0"),
        ((0, 1 << 62, 1 << 62), "u8", 0, "below 2\\^59"),
        ((3,), "q9_9", 3, "got the encoding 'q9_9'"),
    ],
)
def test_impossible_tensors(shape: tuple[int, ...], encoding: str, nbytes: int, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        StoredTensor("w", shape, encoding, np.zeros(nbytes, np.uint8))
