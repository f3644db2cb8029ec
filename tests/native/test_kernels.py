"""The inference kernels of every instruction set of this machine against plain C++, over a grid of shapes."""

from __future__ import annotations

import numpy as np
import pytest

from ordito import _core
from ordito.checkpoint.quants import FORMATS, dequantize
from ordito.native.weights import KERNELS

FAST = [name for name in _core.available_kernels() if name != "reference"]
REFERENCE = _core.Kernels("reference")
INT16 = [name for name in FAST if _core.Kernels(name).int16]
QUANTIZED = sorted(KERNELS - {"f32", "f16", "bf16"})


@pytest.fixture(scope="module")
def machine():
    return _core.Machine(2, None, "int12")


@pytest.fixture(scope="module")
def exact():
    """A machine that keeps weights that are not quantized as they are."""
    return _core.Machine(2, None, "float32")


@pytest.fixture(scope="module")
def integers():
    """A machine that makes integers of matrices that are not quantized and have at least 128 rows."""
    return _core.Machine(2, "reference", "int12")


def blocks(encoding: str, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Random blocks of a matrix as a file stores them: every code occurs, and no scale is infinite."""
    random = np.random.default_rng(seed)
    form = FORMATS[encoding]
    data = random.integers(0, 256, (rows * columns // form.block_size, form.layout.itemsize), np.uint8)
    made = data.view(form.layout)
    for field in ("d", "m", "dmin"):
        if field in (form.layout.names or ()):
            made[field] = (random.standard_normal(made[field].shape) * 0.05).astype(np.float16)
    if encoding == "mxfp4":
        made["e"] = random.integers(118, 130, made["e"].shape)
    return data.reshape(-1)


def plain(encoding: str, rows: int, columns: int) -> np.ndarray:
    values = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    if encoding == "bf16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)
    return values.astype(np.float16 if encoding == "f16" else np.float32).view(np.uint8).reshape(-1)


def packed(machine, encoding, rows, columns):
    data = plain(encoding, rows, columns) if encoding in ("f32", "f16", "bf16") else blocks(encoding, rows, columns)
    made = machine.allocate(encoding, rows, columns)
    machine.fill(made, data, False)
    machine.ready()
    return made, data


def assert_close(got, expected, tolerance):
    scale = np.abs(expected).max() or 1
    assert np.abs(got - expected).max() <= tolerance * scale


@pytest.mark.parametrize("encoding", QUANTIZED)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (16, 512), (37, 768)])
def test_dequantized_rows_match_the_decoder(machine, encoding, rows, columns):
    weights, data = packed(machine, encoding, rows, columns)
    expected = dequantize(encoding, data).reshape(rows, columns)
    for row in range(rows):
        assert_close(weights.row(row), expected[row], 1e-6)
    for name in _core.available_kernels():
        assert_close(_core.Kernels(name).dequantize(weights), expected, 1e-6)


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("encoding", QUANTIZED)
@pytest.mark.parametrize(("rows", "columns"), [(1, 256), (37, 768)])
@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 13, 41])
@pytest.mark.parametrize("rounding", ["one", "int8", "int12", "float32"])
def test_products_with_quantized_weights(machine, kernels, encoding, rows, columns, tokens, rounding):
    weights, _ = packed(machine, encoding, rows, columns)
    x = np.random.default_rng(2).standard_normal((tokens, columns)).astype(np.float32)
    x[0, :32] = 0
    assert_close(_core.Kernels(kernels).linear(weights, x, rounding), REFERENCE.linear(weights, x, rounding), 3e-6)


@pytest.mark.parametrize("encoding", QUANTIZED)
@pytest.mark.parametrize(("rounding", "tolerance"), [("one", 2e-2), ("int8", 1e-2), ("int12", 1e-3), ("float32", 1e-5)])
def test_products_match_decoded_weights(machine, encoding, rounding, tolerance):
    weights, data = packed(machine, encoding, 24, 512)
    x = np.random.default_rng(3).standard_normal((3, 512)).astype(np.float32)
    assert_close(_core.Kernels(None).linear(weights, x, rounding), x @ dequantize(encoding, data).reshape(24, 512).T, tolerance)


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (17, 33), (40, 96)])
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 21])
def test_products_with_plain_weights(exact, kernels, encoding, rows, columns, tokens):
    weights, _ = packed(exact, encoding, rows, columns)
    x = np.random.default_rng(4).standard_normal((tokens, columns)).astype(np.float32)
    assert_close(_core.Kernels(kernels).linear(weights, x, "float32"), REFERENCE.linear(weights, x, "float32"), 2e-6)


@pytest.mark.parametrize("kernels", INT16)
@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(("rows", "columns"), [(128, 32), (145, 64), (200, 416)])
@pytest.mark.parametrize("tokens", [1, 2, 7, 16, 21])
def test_products_of_16_bit_integers(integers, kernels, encoding, rows, columns, tokens):
    weights, _ = packed(integers, encoding, rows, columns)
    assert weights.nbytes == (rows + 15) // 16 * 16 * (2 * columns + 4)
    x = np.random.default_rng(4).standard_normal((tokens, columns)).astype(np.float32)
    x[0, :32] = 0
    got = _core.Kernels(kernels).linear(weights, x, "int12")
    assert_close(got, REFERENCE.linear(weights, x, "int12"), 2e-5)
    matrix = np.stack([weights.row(row) for row in range(rows)])
    assert_close(got, x.astype(np.float64) @ matrix.T, 1e-4)


@pytest.mark.parametrize(("rows", "columns"), [(127, 64), (130, 33)])
def test_small_and_odd_matrices_stay_as_they_are(integers, rows, columns):
    weights, data = packed(integers, "f32", rows, columns)
    assert np.array_equal(np.stack([weights.row(row) for row in range(rows)]).reshape(-1), data.view(np.float32))


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
def test_integers_of_16_bits_keep_the_numbers(integers, encoding):
    weights, data = packed(integers, encoding, 130, 96)
    if encoding == "bf16":
        values = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    else:
        values = data.view(np.float16 if encoding == "f16" else np.float32).astype(np.float32)
    for row, numbers in enumerate(values.reshape(130, 96)):
        # Half a step: the largest of 32 767 steps is the row's largest number, or a norm of 32 numbers has 46 336.
        norms = np.linalg.norm(numbers.reshape(-1, 32), axis=1)
        step = max(np.abs(numbers).max() / 32767, norms.max() / 46336)
        assert np.abs(weights.row(row) - numbers).max() <= 0.505 * step


@pytest.mark.parametrize("name", ["reference", *INT16])
def test_sums_of_16_bit_integers_never_overflow(integers, name):
    """The largest sums: all numbers of a block equal, one alone, and the same numbers on both sides."""
    random = np.random.default_rng(9).standard_normal((3, 64)).astype(np.float32) ** 3
    rows = np.concatenate([np.ones((1, 64)), -np.ones((1, 64)), np.eye(64), -np.eye(64)[:59], random]).astype(np.float32)
    weights = integers.allocate("f32", *rows.shape)
    integers.fill(weights, rows.view(np.uint8).reshape(-1), False)
    integers.ready()
    for scale in (1e-30, 1.0, 1e30):
        x = (rows * np.float32(scale)).astype(np.float32)
        expected = x.astype(np.float64) @ rows.T.astype(np.float64)
        assert_close(_core.Kernels(name).linear(weights, x, "int12"), expected, 1e-4)


@pytest.mark.parametrize("name", ["reference", *INT16])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_gives_no_finite_product_of_16_bits(integers, name, wrong):
    weights, _ = packed(integers, "f32", 128, 64)
    x = np.ones((2, 64), np.float32)
    x[1, 40] = wrong
    got = _core.Kernels(name).linear(weights, x, "int12")
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("rounding", ["one", "int8", "int12", "float32"])
def test_a_token_does_not_depend_on_the_batch(machine, exact, integers, kernels, rounding):
    plain = [(exact, "f32"), (exact, "f16"), *((integers, "f32") for _ in range(_core.Kernels(kernels).int16))]
    for of, encoding in (*((machine, encoding) for encoding in QUANTIZED), *plain):
        weights, _ = packed(of, encoding, 37 if of is not integers else 130, 256)
        x = np.random.default_rng(5).standard_normal((70, 256)).astype(np.float32)
        together = _core.Kernels(kernels).linear(weights, x, rounding)
        alone = np.concatenate([_core.Kernels(kernels).linear(weights, x[t : t + 1], rounding) for t in range(70)])
        assert np.array_equal(together, alone)


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("n", [1, 7, 16, 50, 576])
def test_elementwise_kernels(kernels, n):
    fast, random = _core.Kernels(kernels), np.random.default_rng(6)
    x, w, b = (random.standard_normal(n).astype(np.float32) * 3 for _ in range(3))
    for centred in (False, True):
        for weight, bias in ((None, None), (w, None), (w, b)):
            assert_close(fast.norm(x, centred, 1e-5, weight, bias), REFERENCE.norm(x, centred, 1e-5, weight, bias), 5e-6)
    wide = np.concatenate([x, np.linspace(-100, 100, 999), np.linspace(-1e-3, 1e-3, 99)]).astype(np.float32)
    for act in ("silu", "gelu", "gelu_tanh", "gelu_sigmoid", "relu", "tanh"):
        got, expected = fast.activate(act, None, wide, 0, 0, 1.702), REFERENCE.activate(act, None, wide, 0, 0, 1.702)
        assert np.abs(got - expected).max() <= 3e-7 * max(1, np.abs(wide).max())
    assert np.array_equal(fast.activate("silu", x, b, 0, 0, 0), fast.activate("silu", x, b, 1e9, 0, 0))
    assert_close(fast.activate("gelu_sigmoid", x, b, 2.5, 1, 1.7), REFERENCE.activate("gelu_sigmoid", x, b, 2.5, 1, 1.7), 1e-6)
    assert_close(fast.scale_and_cap(x, 0.3, 2.0), REFERENCE.scale_and_cap(x, 0.3, 2.0), 1e-6)
    angles = random.standard_normal(n).astype(np.float32)
    both = random.standard_normal(2 * n).astype(np.float32)
    for interleaved in (False, True):
        rotated = fast.rotate(both, np.cos(angles), np.sin(angles), interleaved)
        assert_close(rotated, REFERENCE.rotate(both, np.cos(angles), np.sin(angles), interleaved), 1e-6)


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("cache_type", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("rows", "keys", "width"), [(1, 1, 6), (2, 3, 7), (3, 32, 64), (9, 17, 80), (16, 5, 128), (31, 29, 300)]
)
def test_attention_over_a_page(kernels, cache_type, rows, keys, width):
    random = np.random.default_rng(7)
    q, k, v = (random.standard_normal((n, width)).astype(np.float32) for n in (rows, keys, keys))
    got = _core.Kernels(kernels).attend_page(q, k, v, cache_type)
    assert_close(got, REFERENCE.attend_page(q, k, v, cache_type), [1e-5, 1e-5, 1e-5, 2e-4][cache_type])
    scores = np.exp(q @ k.T - (q @ k.T).max(axis=1, keepdims=True))
    assert_close(got, scores / scores.sum(axis=1, keepdims=True) @ v, [1e-5, 5e-3, 5e-2, 2e-3][cache_type])
    alone = [_core.Kernels(kernels).attend_page(q[r : r + 1], k, v, cache_type) for r in range(rows)]
    assert np.array_equal(got, np.concatenate(alone))


@pytest.mark.parametrize("kernels", FAST)
@pytest.mark.parametrize("columns", [32, 96, 128, 160, 512, 544, 672])  # blocks are quantized in sixteens, fours and ones
@pytest.mark.parametrize("rounding", ["one", "int8", "int12"])
def test_activations_of_any_width_and_magnitude(machine, kernels, columns, rounding):
    weights, _ = packed(machine, "q8_0", 16, columns)
    x = np.random.default_rng(8).standard_normal((5, columns)).astype(np.float32)
    x *= np.float32([[1], [1e30], [1e-30], [1], [1]])
    x[3, -1], x[4, 0] = np.inf, -np.inf
    got, expected = (_core.Kernels(name).linear(weights, x, rounding) for name in (kernels, "reference"))
    for token in range(3):
        assert_close(got[token], expected[token], 3e-6)
    for each in (got, expected):
        assert np.isnan(each[3:]).all()


@pytest.mark.parametrize("kernels", ["reference", *FAST])
@pytest.mark.parametrize("encoding", QUANTIZED)
@pytest.mark.parametrize("rounding", ["one", "int8", "int12"])
def test_tiny_activations_become_zero_and_nan_stays_nan(machine, kernels, encoding, rounding):
    weights, _ = packed(machine, encoding, 24, 512)
    x = np.random.default_rng(6).standard_normal((20, 512)).astype(np.float32)
    expected = _core.Kernels(kernels).linear(weights, np.where(np.arange(512) // 32 == 3, 0, x).astype(np.float32), rounding)
    x[:, 96:128] *= np.float32(1e-38)  # 127 / 1e-38 overflows
    assert np.array_equal(_core.Kernels(kernels).linear(weights, x, rounding), expected)
    x[5, 70] = np.nan
    got = _core.Kernels(kernels).linear(weights, x, rounding)
    assert np.isnan(got[5]).all()
    others = np.arange(20) != 5
    assert np.array_equal(got[others], expected[others])


@pytest.mark.parametrize("kernels", ["reference", *FAST])
def test_nan_stays_nan(kernels):
    by = _core.Kernels(kernels)
    x = np.linspace(-3, 3, 40, dtype=np.float32)
    x[[3, 39]] = np.nan
    for act in ("silu", "gelu", "gelu_tanh", "gelu_sigmoid", "relu", "tanh"):
        assert np.array_equal(np.isnan(by.activate(act, None, x, 0, 0, 1.702)), np.isnan(x)), act
    limited = by.activate("silu", x, np.roll(x, 1), 2.0, 1.0, 1.0)
    assert np.array_equal(np.isnan(limited), np.isnan(x) | np.isnan(np.roll(x, 1)))
    assert np.array_equal(np.isnan(by.scale_and_cap(x, 0.5, 3.0)), np.isnan(x))
    random = np.random.default_rng(7)
    q, k, v = (random.standard_normal((n, 64)).astype(np.float32) for n in (9, 20, 20))
    for cache_type in (0, 1):
        assert np.isfinite(by.attend_page(q, k, v, cache_type)).all()
        for damaged in (0, 19):
            one = k.copy()
            one[damaged, 5] = np.nan
            assert np.isnan(by.attend_page(q, one, v, cache_type)).all()
    q[4, 7] = np.nan
    assert np.array_equal(np.isnan(by.attend_page(q, k, v, 0)).all(1), np.arange(9) == 4)


def test_bad_sizes_are_refused(machine):
    for count in (0, 18, 35, 54):
        with pytest.raises(ValueError, match="for 2 x 32 numbers in q4_0"):
            machine.fill(machine.allocate("q4_0", 2, 32), np.zeros(count, np.uint8), False)
    with pytest.raises(ValueError, match="no kernels for"):
        machine.allocate("q9_9", 2, 32)
    with pytest.raises(ValueError, match="whole number of blocks"):
        machine.allocate("q4_k", 2, 128)
    with pytest.raises(ValueError, match="got a matrix"):
        machine.allocate("q4_0", 1 << 50, 32)
    with pytest.raises(ValueError, match="expected one of"):
        _core.Machine(1, "mmx", "int8")
    with pytest.raises(ValueError, match="threads"):
        _core.Machine(0, None, "int8")
