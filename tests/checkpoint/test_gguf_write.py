"""GGUF files that we write are what the `gguf` package reads, and what we read ourselves."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
from gguf import GGUFReader

from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.gguf_write import Planned, write_gguf
from ordito.errors import CheckpointError, OrditoError

TYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16", "q8_0": "Q8_0"}
"""Those that everyone writes to the bit."""

METADATA = {
    "general.architecture": "toy",
    "a.int": 7,
    "a.negative": -7,
    "a.large": 2**40,
    "a.float": 1e-5,
    "a.flag": True,
    "a.text": "è 🙂",
    "a.list": [1, -2, 3],
    "a.words": ["x", "", "ü"],
    "a.numbers": [0.5, -1.0],
    "a.bytes": np.frombuffer(b"\x00\xff", np.uint8),
    "a.flags": [True, False],
    "a.empty": [],
    "a.no_bytes": np.zeros(0, np.uint8),
    "a.double": 1e300,
    "a.infinite": -float("inf"),
}


def arrays():
    random = np.random.default_rng(3)
    return {
        "matrix": random.normal(size=(5, 64)).astype(np.float32),
        "vector": random.normal(size=7).astype(np.float32),
        "stack": random.normal(size=(3, 2, 32)).astype(np.float32),
        "extremes": np.array([[0.0, -0.0, 6e4, -6e4, 1e-8, 0.5, 1.5, 2.5] * 4], np.float32),
    }


def written(path, encoding):
    planned = [Planned(name, a.shape, encoding if a.ndim > 1 else "f32") for name, a in arrays().items()]
    write_gguf(path, METADATA, planned, arrays().items())
    return path


@pytest.mark.parametrize("encoding", TYPES)
def test_the_gguf_package_reads_it(tmp_path, encoding):
    theirs = GGUFReader(written(tmp_path / "x.gguf", encoding))
    for tensor in theirs.tensors:
        expected = arrays()[tensor.name]
        kind = gguf.GGMLQuantizationType[TYPES[encoding if expected.ndim > 1 else "f32"]]
        assert tensor.tensor_type == kind
        assert list(reversed(tensor.shape.tolist())) == list(expected.shape)
        assert np.array_equal(tensor.data, gguf.quants.quantize(expected, kind))  # bit for bit what they write
    assert theirs.fields["a.text"].contents() == "è 🙂"
    assert theirs.fields["a.list"].contents() == [1, -2, 3]
    assert theirs.fields["a.large"].contents() == 2**40


@pytest.mark.parametrize("encoding", TYPES)
def test_we_read_it(tmp_path, encoding):
    file = read_gguf(written(tmp_path / "x.gguf", encoding))
    for key, value in METADATA.items():
        assert np.array_equal(file.metadata[key], value), key
    assert file.metadata["a.empty"] == []
    assert list(file.tensors) == list(arrays())
    assert np.array_equal(file.tensors["vector"].to_float32(), arrays()["vector"])
    loss = {"f32": 0, "f16": 1e-3, "bf16": 8e-3, "q8_0": 8e-3}[encoding]
    for name in ("matrix", "stack"):
        assert np.abs(file.tensors[name].to_float32() - arrays()[name]).max() <= loss * np.abs(arrays()[name]).max()


@pytest.mark.parametrize("code", "bBhHiIqQfd?")
def test_arrays_keep_their_type(tmp_path, code):
    array = np.array([0, 1], code)
    write_gguf(tmp_path / "x.gguf", {"a": array}, [], [])
    theirs = GGUFReader(tmp_path / "x.gguf").fields["a"]
    assert theirs.types[-1].name == {"FLOAT": "FLOAT32", "DOUBLE": "FLOAT64"}.get(kind := array.dtype.name.upper(), kind)
    assert theirs.contents() == array.tolist()
    ours = read_gguf(tmp_path / "x.gguf").metadata["a"]
    assert (ours.dtype, ours.tolist()) == (array.dtype, array.tolist())


def test_what_is_no_number_stays_none(tmp_path):
    array = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    for encoding in ("f32", "f16", "bf16"):
        write_gguf(tmp_path / "x.gguf", {}, [Planned("w", (1, 4), encoding)], [("w", array)])
        assert np.array_equal(read_gguf(tmp_path / "x.gguf").tensors["w"].to_float32(), array, equal_nan=True)


def test_a_file_is_complete_or_absent(tmp_path):
    def broken():
        yield "w", np.zeros((2, 4), np.float32)
        raise KeyboardInterrupt

    planned = [Planned("w", (2, 4), "f32"), Planned("v", (2, 4), "f32")]
    with pytest.raises(KeyboardInterrupt):
        write_gguf(tmp_path / "x.gguf", {}, planned, broken())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_gguf(tmp_path / "no" / "x.gguf", {}, [], [])


@pytest.mark.parametrize("value", [None, {"a": 1}, [1, "a"], 2**70])
def test_what_gguf_cannot_hold(tmp_path, value):
    with pytest.raises(OrditoError, match=r"'a\.b'"):
        write_gguf(tmp_path / "x.gguf", {"a.b": value}, [], [])
    assert list(tmp_path.iterdir()) == []
