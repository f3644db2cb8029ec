"""Screening: the largest logits equal those of the whole product bit for bit, on every instruction set."""

from __future__ import annotations

import dataclasses
import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito import _core
from ordito.families import spec_from_config
from ordito.native.screening import screened, spared

ROWS, COLUMNS = 1013, 256
FORMATS = ["q8_0", "q6_k"]
KERNELS = _core.available_kernels()
LLAMA = {
    "model_type": "llama",
    "vocab_size": 10000,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


@functools.cache
def _encoded(contents: bytes, columns: int, format: str) -> np.ndarray:
    matrix = np.frombuffer(contents, np.float32).reshape(-1, columns)
    return _core.Kernels(None).encode(format, matrix, None, 1).reshape(-1)


def encoded(matrix: np.ndarray, format: str) -> np.ndarray:
    """The bytes of a matrix; most tests ask for those of the same few, whose encoding takes longer than the products."""
    return _encoded(matrix.astype(np.float32).tobytes(), matrix.shape[1], format)


class Head:
    """A language-model head alone, on a machine of its own."""

    def __init__(self, matrix, format="q8_0", *, kernels=None, arithmetic="int12", split=True):
        self.machine = _core.Machine(2, kernels, arithmetic)
        self.weights = self.machine.allocate(format, *matrix.shape, split)
        self.machine.fill(self.weights, encoded(matrix, format), False)
        self.machine.ready()

    def __call__(self, states: np.ndarray, greatest: int = 0) -> np.ndarray:
        builder = _core.Builder()
        rows, columns = self.weights.shape
        x, y = (builder.buffer(columns), 0), (builder.buffer(rows), 0)
        table = self.machine.allocate("f32", *states.shape)
        self.machine.fill(table, np.ascontiguousarray(states, np.float32).view(np.uint8).reshape(-1), False)
        builder.embed(x, table, 1.0, None, 0, None)
        builder.linear(x, y, None, [(self.weights, None, 0, 0)], screened=True)
        sequence, ids = _core.Cached([], "f16"), np.arange(len(states), dtype=np.int32)
        return self.machine.run(builder.build(), [(sequence, len(ids), 0, False)], ids, [], greatest, [], [], y[0]).copy()


def assert_largest_match(found, whole, greatest):
    """Every finite product equals that of the whole product, and the largest are among them."""
    kept = np.isfinite(found)
    assert np.array_equal(found[kept], whole[kept])
    for row, all_of_them in zip(found, whole, strict=True):
        assert np.array_equal(np.sort(row)[::-1][:greatest], np.sort(all_of_them)[::-1][:greatest])


def peaked(random, tokens, rows=ROWS):
    """A random matrix, and states that are each near one of its rows."""
    matrix = random.standard_normal((rows, COLUMNS))
    chosen = matrix[random.integers(0, rows, tokens)]
    return matrix, chosen + random.standard_normal(chosen.shape) / 2


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("arithmetic", ["int8", "int12"])
@pytest.mark.parametrize("tokens", [1, 2, 9, 17])
@pytest.mark.parametrize("greatest", [1, 5, 64])
@pytest.mark.parametrize("format", FORMATS)
def test_the_largest_match_the_whole_product(kernels, arithmetic, tokens, greatest, format):
    matrix, states = peaked(np.random.default_rng(tokens), tokens)
    whole = Head(matrix, format, kernels=kernels, arithmetic=arithmetic, split=False)(states)
    head = Head(matrix, format, kernels=kernels, arithmetic=arithmetic)
    assert np.array_equal(head(states), whole)
    assert_largest_match(head(states, greatest), whole, greatest)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("format", FORMATS)
def test_few_panels_are_multiplied_for_peaked_logits(kernels, format):
    matrix, states = peaked(np.random.default_rng(0), 3)
    head = Head(matrix, format, kernels=kernels)
    assert np.isfinite(head(states, 1)).mean() < 0.2


@pytest.mark.parametrize("format", FORMATS)
def test_a_token_does_not_depend_on_the_batch(format):
    matrix, states = peaked(np.random.default_rng(0), 8, rows=5000)
    head = Head(matrix, format)
    together = head(states, 3)
    for row, state in zip(together, states, strict=True):
        assert np.array_equal(head(state[None], 3)[0], row)


def test_flat_logits_are_multiplied_whole():
    random = np.random.default_rng(0)
    matrix = random.standard_normal(COLUMNS) + random.standard_normal((ROWS, COLUMNS)) / 1e3
    states = random.standard_normal((2, COLUMNS))
    head, whole = Head(matrix), Head(matrix, split=False)(states)
    for _ in range(5):  # after a screening that did not pay, the next steps do not screen
        assert_largest_match(head(states, 1), whole, 1)


@pytest.mark.parametrize("states", [np.zeros((1, COLUMNS)), np.full((1, COLUMNS), 1e30), np.eye(COLUMNS)[:2] * 50])
@pytest.mark.parametrize("format", FORMATS)
def test_unusual_states(states, format):
    matrix = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
    assert_largest_match(Head(matrix, format)(states, 2), Head(matrix, format, split=False)(states), 2)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("values", [(-1, 1), (-1, 0, 1), range(-7, 8)])
def test_weights_of_few_values_are_not_screened(values, format):
    """Their lower bits repeat, so that the error of the estimate exceeds the bound for independent ones."""
    random = np.random.default_rng(0)
    matrix = random.choice(values, (ROWS, COLUMNS)) * random.lognormal(size=(ROWS, 1))
    assert np.isfinite(Head(matrix, format)(random.standard_normal((1, COLUMNS)), 1)).all()


@pytest.mark.parametrize("scale", [np.inf, np.nan])
def test_infinite_and_nan_scales(scale):
    """As in a damaged file: results equal those of the whole product, and no memory out of bounds is read."""
    head = Head(np.random.default_rng(0).standard_normal((ROWS, COLUMNS)))
    blocks = encoded(np.random.default_rng(0).standard_normal((ROWS, COLUMNS)), "q8_0").reshape(-1, 34).copy()
    blocks[:, :2] = np.array([scale], np.float16).view(np.uint8)
    head.machine.fill(head.weights, blocks.reshape(-1), False)
    head.machine.ready()
    states = np.random.default_rng(1).standard_normal((1, COLUMNS))
    assert np.array_equal(head(states, 1), head(states), equal_nan=True)


def test_nan_states_do_not_fail():
    matrix, states = peaked(np.random.default_rng(0), 1)
    states[0, 3] = np.nan
    assert Head(matrix)(states, 4).shape == (1, ROWS)


def test_float32_is_not_screened():
    matrix, states = peaked(np.random.default_rng(0), 2)
    assert np.isfinite(Head(matrix, arithmetic="float32")(states, 1)).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_any_shape(rows, tiles, greatest, seed):
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, 32 * tiles)) * random.lognormal(size=(rows, 1))
    states = random.standard_normal((2, 32 * tiles)) * random.lognormal(sigma=2, size=32 * tiles)
    assert_largest_match(Head(matrix)(states, greatest), Head(matrix, split=False)(states), greatest)


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("rounding", ["one", "int8", "int12", "float32"])
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("tokens", [3, 20])
def test_split_codes_give_the_same_products(kernels, rounding, format, tokens):
    matrix = np.random.default_rng(0).standard_normal((37, 512))
    parted, whole = Head(matrix, format).weights, Head(matrix, format, split=False).weights
    x = np.random.default_rng(1).standard_normal((tokens, 512)).astype(np.float32)
    by = _core.Kernels(kernels)
    assert np.array_equal(by.linear(parted, x, rounding), by.linear(whole, x, rounding))
    assert np.array_equal(by.dequantize(parted), by.dequantize(whole))
    assert all(np.array_equal(parted.row(row), whole.row(row)) for row in range(37))
    assert parted.nbytes == whole.nbytes
    assert 0 < parted.lower_bytes < whole.nbytes
    assert whole.lower_bytes == 0


def test_which_heads_are_screened():
    spec = spec_from_config(LLAMA)
    assert screened(spec) == "head.weight"
    assert screened(spec_from_config(LLAMA | {"tie_word_embeddings": True})) == "embedding.tokens.weight"
    assert screened(spec_from_config(LLAMA | {"vocab_size": 1000})) is None
    for change in ({"bias": True}, {"softcap": 30.0}, {"unused": (3,)}):
        assert screened(dataclasses.replace(spec, head=dataclasses.replace(spec.head, **change))) is None


def test_bytes_that_screening_spares():
    spec = spec_from_config(LLAMA)
    for encoding, nbytes, fewer in (("q8_0", 3400, 1600), ("q6_k", 2100, 640), ("q4_k", 3400, 0)):
        assert spared(spec, {"head.weight": SimpleNamespace(encoding=encoding, nbytes=nbytes)}) == fewer
    assert spared(spec, {}) == 0
