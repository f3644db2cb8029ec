"""Training's kernels of every instruction set of this machine: matrix products against numpy, others against plain C++."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito import _core

ALL = _core.available_kernels()
SHAPES = [(1, 1, 1), (3, 5, 7), (17, 33, 40), (64, 96, 32), (130, 100, 1100), (200, 1600, 515)]


def matrix(rows: int, columns: int, seed: int, transposed: bool) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((columns, rows) if transposed else (rows, columns)).astype(np.float32)
    return values.T if transposed else values


def product(a: np.ndarray, b: np.ndarray, threads: int = 1, kernels: str | None = None) -> np.ndarray:
    c = np.full((len(a), b.shape[1]), np.nan, np.float32)
    _core.multiply("float32", a, b, c, threads, kernels)
    return c


@pytest.mark.parametrize("kernels", ALL)
@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("transposed", [(False, False), (True, False), (False, True), (True, True)])
def test_products_match_numpy(kernels, m, n, k, transposed):
    a, b = matrix(m, k, 0, transposed[0]), matrix(k, n, 1, transposed[1])
    expected = a.astype(np.float64) @ b.astype(np.float64)
    assert np.abs(product(a, b, 1, kernels) - expected).max() <= 2e-6 * np.sqrt(k) * max(1, np.abs(expected).max())


@settings(deadline=None)  # the time of a loaded machine is no failure
@given(m=st.integers(1, 40), n=st.integers(1, 70), k=st.integers(1, 600), seed=st.integers(0, 1 << 30))
def test_a_row_does_not_depend_on_the_batch(m, n, k, seed):
    a, b = matrix(m, k, seed, False), matrix(k, n, seed + 1, False)
    row = seed % m
    assert np.array_equal(product(a, b, 2)[row], product(a[row : row + 1], b, 1)[0])


def test_views_of_larger_matrices():
    a, b, c = matrix(50, 60, 0, False), matrix(60, 70, 1, False), np.zeros((50, 100), np.float32)
    _core.multiply("float32", a[5:45, 10:50], b[10:50, 3:67], c[5:45, 20:84], 2)
    expected = np.zeros_like(c)
    expected[5:45, 20:84] = a[5:45, 10:50] @ b[10:50, 3:67]
    assert np.allclose(c, expected, atol=1e-4)


def test_depth_zero_gives_zeros():
    assert not product(np.zeros((3, 0), np.float32), np.zeros((0, 4), np.float32)).any()


@pytest.mark.parametrize(
    ("a", "b", "c", "reason"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((4, 5), np.float32), np.zeros((2, 5), np.float32), "do not fit"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 5), np.float32), np.zeros((2, 4), np.float32), "do not fit"),
        (
            np.zeros((2, 3), np.float64),
            np.zeros((3, 5), np.float32),
            np.zeros((2, 5), np.float32),
            "neither float32 nor bfloat16",
        ),
        (np.zeros((4, 6), np.float32)[::2, ::2], np.zeros((3, 5), np.float32), np.zeros((2, 5), np.float32), "contiguous"),
        (np.zeros((2, 3), np.float32), np.zeros((3, 5), np.float32), np.zeros((5, 2), np.float32).T, "contiguous"),
    ],
)
def test_bad_operands_are_refused(a, b, c, reason):
    with pytest.raises(ValueError, match=reason):
        _core.multiply("float32", a, b, c, 1)


def test_other_kinds_are_refused():
    with pytest.raises(ValueError, match="not of int8"):
        _core.has_products("int8")


def attention(kernels: str, mask: np.ndarray | None, sinks: np.ndarray | None, cap: float) -> list[np.ndarray]:
    """The output, the gradients of queries, keys and values, and delta."""
    random = np.random.default_rng(2)
    (batch, heads, kv_heads, queries, keys, width, value_width) = (2, 4, 2, 75, 90, 20, 12)

    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    q, k, v = (
        values(batch, heads, queries, width),
        values(batch, kv_heads, keys, width),
        values(batch, kv_heads, keys, value_width),
    )
    out, grad = np.empty((batch, heads, queries, value_width), np.float32), values(batch, heads, queries, value_width)
    logs, delta = np.empty((batch, heads, queries), np.float32), np.empty((batch, heads, queries), np.float32)
    grads = [np.full_like(x, np.nan) for x in (q, k, v)]
    _core.attend("float32", q, k, v, mask, sinks, 0.25, cap, out, logs, 2, kernels)
    _core.attend_gradient("float32", q, k, v, mask, sinks, 0.25, cap, out, grad, logs, delta, *grads, 2, kernels)
    return [out, *grads, delta]


@pytest.mark.parametrize("kernels", [name for name in ALL if name != "reference"])
@pytest.mark.parametrize("cap", [0.0, 4.0])
@pytest.mark.parametrize("masking", ["none", "window", "sinks"])
def test_attention_matches_the_reference(kernels, cap, masking):
    distance = np.arange(15, 90)[:, None] - np.arange(90)
    mask = np.broadcast_to(((distance >= 0) & (distance < 40)).astype(np.uint8), (2, 75, 90)) if masking == "window" else None
    sinks = np.linspace(-1, 1, 4, dtype=np.float32) if masking == "sinks" else None
    for got, expected in zip(attention(kernels, mask, sinks, cap), attention("reference", mask, sinks, cap), strict=True):
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("kernels", ALL)
def test_any_byte_of_a_mask_but_0_is_visible(kernels):
    visible = np.tri(75, 90, 15, dtype=np.uint8) * (np.arange(90) >= 10).astype(np.uint8)
    mask = np.broadcast_to(visible, (2, 75, 90))
    expected = attention(kernels, mask, None, 0.0)
    for byte in (2, 255):
        for got, same in zip(attention(kernels, byte * mask, None, 0.0), expected, strict=True):
            assert np.array_equal(got, same)


@pytest.mark.parametrize("kernels", [name for name in ALL if name != "reference"])
@pytest.mark.parametrize("columns", [1, 15, 1003])
def test_losses_match_the_reference(kernels, columns):
    logits = 5 * np.random.default_rng(3).standard_normal((6, columns)).astype(np.float32)
    targets, weights = np.arange(6) % columns, np.linspace(-1, 2, 6, dtype=np.float32)
    found = {}
    for name in (kernels, "reference"):
        losses, logs, grad = np.empty(6, np.float32), np.empty(6, np.float32), np.empty_like(logits)
        _core.cross_entropy(logits, targets, losses, logs, 2, name)
        _core.cross_entropy_gradient(logits, targets, logs, weights, grad, 2, name)
        found[name] = losses, logs, grad
    for got, expected in zip(found[kernels], found["reference"], strict=True):
        assert np.abs(got - expected).max() <= 3e-6 * max(1, np.abs(expected).max())


def row_operations(kernels: str, width: int) -> list[np.ndarray]:
    """Norms, gates and rotated heads, with their gradients."""
    random = np.random.default_rng(4)
    x, up, grad = (random.standard_normal((70, width)).astype(np.float32) for _ in range(3))
    weight = random.standard_normal(width).astype(np.float32)
    y, gated, grad_x, grad_gate, grad_up = (np.full_like(x, np.nan) for _ in range(5))
    grad_weight = np.full_like(weight, np.nan)
    _core.norm_rows(x, 1e-5, weight, y, 2, kernels)
    _core.norm_rows_gradient(x, 1e-5, weight, grad, grad_x, grad_weight, 2, kernels)
    _core.gate_rows(x, up, gated, 2, kernels)
    _core.gate_rows_gradient(x, up, grad, grad_gate, grad_up, 2, kernels)
    found = [y, grad_x, grad_weight, gated, grad_gate, grad_up]
    heads, angles = x[:60].reshape(2, 5, 6, width), random.standard_normal((2, 6, width // 2 or 1)).astype(np.float32)
    for interleaved in (False, True) if width > 1 else ():
        rotated, back = np.full_like(heads, np.nan), np.full_like(heads, np.nan)
        cos, sin = np.cos(angles), np.sin(angles)
        _core.rotate_heads(heads, cos, sin, interleaved, False, rotated, 2, kernels)
        _core.rotate_heads(rotated, cos, sin, interleaved, True, back, 2, kernels)
        assert np.abs(back - heads).max() < 1e-5
        found.append(rotated)
    return found


@pytest.mark.parametrize("kernels", [name for name in ALL if name != "reference"])
@pytest.mark.parametrize("width", [1, 7, 64, 83])
def test_norms_gates_and_rotations_match_the_reference(kernels, width):
    for got, expected in zip(row_operations(kernels, width), row_operations("reference", width), strict=True):
        assert np.abs(got - expected).max() <= 2e-5 * max(1, np.abs(expected).max())
