"""Quantization: other readers decode the same values, and no simple rounding has a smaller error."""

from __future__ import annotations

import ctypes
from pathlib import Path

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito import _core
from ordito.checkpoint.encode import PLAIN, encode
from ordito.checkpoint.stored import ENCODINGS, StoredTensor
from ordito.errors import OrditoError

BLOCKS = "q4_0 q4_1 q5_0 q5_1 q8_0 q2_k q3_k q4_k q5_k q6_k iq4_nl iq4_xs mxfp4".split()
# Errors of normally distributed numbers over their own size: the best known for so many bits, and some room.
LOSSES = dict(
    zip(BLOCKS, (0.082, 0.072, 0.042, 0.036, 0.0056, 0.28, 0.165, 0.075, 0.038, 0.02, 0.076, 0.076, 0.115), strict=True)
)


def normal(rows=8, columns=512, seed=0):
    return (np.random.default_rng(seed).normal(size=(rows, columns)) * 0.02).astype(np.float32)


def decoded(encoding, data, shape):
    return StoredTensor("w", shape, encoding, np.ascontiguousarray(data).reshape(-1)).to_float32().astype(np.float64)


def loss(encoding, x, importance=None):
    w = np.ones(x.shape[-1]) if importance is None else importance
    found = decoded(encoding, encode("w", x, encoding, importance), x.shape)
    return float(np.sqrt((w * (found - x) ** 2).sum() / (w * x.astype(np.float64) ** 2).sum()))


@pytest.mark.parametrize("encoding", BLOCKS)
def test_the_error_is_that_of_the_number_of_bits(encoding):
    assert 0 < loss(encoding, normal()) <= LOSSES[encoding]


@pytest.mark.parametrize("encoding", BLOCKS)
def test_the_gguf_package_decodes_the_same(encoding):
    data = encode("w", normal(), encoding)
    theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[encoding.upper()])
    assert np.array_equal(theirs, decoded(encoding, data, normal().shape).astype(np.float32))


@pytest.mark.parametrize("encoding", [e for e in BLOCKS if e not in ("q8_0", "mxfp4")])
def test_importance_moves_the_error_to_where_it_costs_less(encoding):
    x = normal()
    importance = np.ones(512, np.float32)
    importance[::7] = 100
    with_it = decoded(encoding, encode("w", x, encoding, importance), x.shape) - x
    without = decoded(encoding, encode("w", x, encoding), x.shape) - x
    assert (with_it[:, ::7] ** 2).sum() < 0.9 * (without[:, ::7] ** 2).sum()
    assert (with_it**2).sum() >= (without**2).sum()


@pytest.mark.parametrize("encoding", BLOCKS)
@pytest.mark.parametrize("kernels", _core.available_kernels())
def test_every_instruction_set_rounds_as_well(encoding, kernels):
    x = normal()
    data = _core.Kernels(kernels).encode(encoding, x, None, 2)
    plain = _core.Kernels("reference").encode(encoding, x, None, 1)
    errors = [float(((decoded(encoding, some, x.shape) - x) ** 2).sum()) for some in (data, plain)]
    assert errors[0] == pytest.approx(errors[1], rel=2e-3)


@pytest.mark.parametrize("encoding", BLOCKS)
def test_awkward_numbers(encoding):
    form = ENCODINGS[encoding]
    for x in (
        np.zeros((2, 256), np.float32),
        np.full((2, 256), 0.37, np.float32),
        np.full((2, 256), -0.37, np.float32),
        np.eye(2, 256, dtype=np.float32) * -3,
        normal() * np.float32(1e-30),
        np.abs(normal()),
        -np.abs(normal()),
    ):
        data = encode("w", x, encoding)
        assert data.shape == (len(x), x.shape[1] // form.block_size * form.block_bytes)
        found = decoded(encoding, data, x.shape)
        assert np.isfinite(found).all()
        assert ((found - x) ** 2).sum() <= (x.astype(np.float64) ** 2).sum() * (1 + 1e-6) + 1e-12  # never worse than zeros
    outlier = normal()
    outlier[0, 3] = 40.0
    assert abs(decoded(encoding, encode("w", outlier, encoding), outlier.shape)[0, 3] - 40) <= 8


@settings(max_examples=40, deadline=None)
@given(encoding=st.sampled_from(BLOCKS), seed=st.integers(0, 10**6), scale=st.sampled_from([0.1, 1.0, 1e3]))
def test_requantizing_loses_less_than_half_of_the_first_time(encoding, seed, scale):
    x = decoded(encoding, encode("w", normal(2, 256, seed) * np.float32(scale), encoding), (2, 256)).astype(np.float32)
    assert loss(encoding, x) <= 0.5 * LOSSES[encoding]


def test_experts_have_importances_of_their_own():
    x = np.stack([normal(4, 256, 1), normal(4, 256, 2)])
    importance = np.ones((2, 256), np.float32)
    importance[1, :9] = 1000
    both = encode("w", x, "q4_k", importance)
    assert np.array_equal(both[0], encode("w", x[0], "q4_k"))
    assert np.array_equal(both[1], encode("w", x[1], "q4_k", importance[1]))


def test_columns_of_importance_zero():
    importance = np.zeros(512, np.float32)
    assert np.array_equal(encode("w", normal(), "q4_k", importance), encode("w", normal(), "q4_k"))
    importance[5] = 1
    found = decoded("q4_k", encode("w", normal(), "q4_k", importance), (8, 512))
    assert ((found - normal()) ** 2).sum() < 0.1 * (normal() ** 2).sum()  # the others are near all the same


def test_mistakes():
    x = normal()
    x[0, 0] = np.nan
    with pytest.raises(OrditoError, match="not finite"):
        encode("blk.0.w", x, "q4_k")
    with pytest.raises(OrditoError, match="512 columns"):
        encode("blk.0.w", normal(), "q4_k", np.ones(256, np.float32))
    with pytest.raises(OrditoError, match="not all finite and positive"):
        encode("blk.0.w", normal(), "q4_k", np.full(512, -1, np.float32))
    kernels = _core.Kernels(None)
    for bad in (
        lambda: kernels.encode("f16", normal(), None, 1),
        lambda: kernels.encode("q4_k", normal(2, 100), None, 1),
        lambda: kernels.encode("q9", normal(), None, 1),
        lambda: kernels.encode("q4_0", normal(), np.ones(3, np.float32), 1),
    ):
        with pytest.raises(ValueError, match="blocks|no format|columns|q9"):
            bad()


@pytest.mark.parametrize("encoding", PLAIN)
def test_plain_encodings_keep_nan_and_infinity(encoding):
    x = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    assert np.array_equal(decoded(encoding, encode("w", x, encoding), x.shape), x, equal_nan=True)


@pytest.mark.parametrize("encoding", ["f16", "bf16", *BLOCKS])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_that_are_too_large_are_refused(encoding, sign):
    refused = kept = 0
    for size in np.geomspace(1e4, 3.4e38, 100):
        x = normal()
        x[3, 7] = sign * size
        try:
            found = decoded(encoding, encode("blk.0.w", x, encoding), x.shape)
        except OrditoError as error:
            wider = "f32" if encoding == "bf16" else "bf16 or f32"
            assert str(error) == f"tensor 'blk.0.w' holds {x[3, 7]:g}, which is too large for {encoding}: choose {wider}"
            assert size > 65504
            refused += 1
        else:
            assert not refused
            assert abs(found[3, 7] - x[3, 7]) <= 0.3 * size
            kept += 1
    assert refused
    assert kept


def test_the_largest_numbers_of_each_type():
    for encoding, largest in (("f16", 65504.0), ("bf16", float.fromhex("0x1.fep127")), ("f32", float(np.finfo("f4").max))):
        x = np.array([[largest, -largest, np.nan, np.inf]], np.float32)
        assert np.array_equal(decoded(encoding, encode("w", x, encoding), x.shape), x, equal_nan=True)
    for encoding, beyond in (("f16", 65520.0), ("bf16", float.fromhex("0x1.ffp127"))):
        x = np.array([[np.nan, np.inf, -beyond, 1]], np.float32)
        with pytest.raises(OrditoError, match=f"holds -.* too large for {encoding}"):
            encode("w", x, encoding)
    assert np.isnan(decoded("f16", encode("w", np.full((1, 4), np.nan, np.float32), "f16"), (1, 4))).all()
    assert encode("w", np.array(7e4, np.float32), "bf16").size == 2
    assert encode("w", np.zeros((0, 32), np.float32), "q8_0").size == 0


def ggml():
    """llama.cpp's own quantizer, where its Python package is installed."""
    llama_cpp = pytest.importorskip("llama_cpp")
    lib = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.so*"))))
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
    return lib


@pytest.mark.parametrize("encoding", BLOCKS)
@pytest.mark.parametrize("informed", [False, True])
@pytest.mark.parametrize("kind", ["normal", "heavy", "shifted"])
def test_no_worse_than_llama_cpp(encoding, informed, kind):
    random = np.random.default_rng(5)
    x = {"normal": normal(64), "heavy": random.standard_t(4, (64, 512)), "shifted": random.uniform(-0.1, 1, (64, 512))}[
        kind
    ].astype(np.float32)
    importance = np.exp(1.5 * random.normal(size=512)).astype(np.float32) if informed else None
    kind = gguf.GGMLQuantizationType[encoding.upper()]
    theirs = np.zeros(gguf.quant_shape_to_byte_shape(x.shape, kind), np.uint8)
    ggml().ggml_quantize_chunk(
        kind.value, x.ctypes.data, theirs.ctypes.data, 0, *x.shape, importance.ctypes.data if informed else None
    )
    w = importance if informed else 1
    error = float(np.sqrt((w * (decoded(encoding, theirs, x.shape) - x) ** 2).sum() / (w * x.astype(np.float64) ** 2).sum()))
    assert loss(encoding, x, importance) <= 1.01 * error
