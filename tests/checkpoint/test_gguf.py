"""GGUF: what the gguf package writes we read, bit by bit; what is not sound is refused."""

from __future__ import annotations

import struct

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ordito.checkpoint.gguf import read_gguf
from ordito.errors import CheckpointError

SETTINGS = settings(
    max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
QUANTIZED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]


def write(path, metadata=None, tensors=None, quantized=None):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (metadata or {}).items():
        kinds = {bool: writer.add_bool, int: writer.add_int64, float: writer.add_float32, str: writer.add_string}
        kinds.get(type(value), writer.add_array)(key, value)
    for name, value in (tensors or {}).items():
        writer.add_tensor(name, value)
    for name, (value, kind) in (quantized or {}).items():
        writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


values = (
    st.booleans() | st.integers(-(2**40), 2**40) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
)


@SETTINGS
@given(st.dictionaries(st.text("abc.", min_size=1, max_size=9), values, max_size=5))
def test_metadata_makes_the_round_trip(tmp_path, metadata):
    file = read_gguf(write(tmp_path / "x.gguf", metadata))
    assert {key: file.metadata[key] for key in metadata} == metadata


def test_arrays_and_floats(tmp_path):
    metadata = {"a": [1, 2, 3], "s": ["x", "é"], "f": 1e-5, "eps": 1e-6}
    file = read_gguf(write(tmp_path / "x.gguf", metadata))
    assert file.metadata["a"].tolist() == [1, 2, 3]
    assert file.metadata["s"] == ["x", "é"]
    assert (file.metadata["f"], file.metadata["eps"]) == (1e-5, 1e-6)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tensors_are_bit_equal(tmp_path, kind):
    value = np.random.default_rng(1).normal(size=(6, 64)).astype(np.float32)
    path = write(tmp_path / "x.gguf", None, {"plain": value}, {"small": (value, gguf.GGMLQuantizationType[kind])})
    ours, theirs = read_gguf(path).tensors, {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert ours["small"].shape == (6, 64)
    assert ours["small"].encoding == kind.lower()
    expected = gguf.quants.dequantize(theirs["small"].data, theirs["small"].tensor_type)
    assert np.array_equal(ours["small"].to_float32().view(np.uint32), expected.view(np.uint32))
    assert np.array_equal(ours["plain"].to_float32(), value)


def header(version=3, tensors=0, pairs=0):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def string(text):
    return struct.pack("<Q", len(text)) + text


def tensor(name=b"t", dims=(4,), kind=0, offset=0):
    return string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)


def padded(data, extra=64):
    return data + b"\0" * (-len(data) % 32 + extra)


ARRAY = header(pairs=1) + string(b"k") + struct.pack("<I", 9)
HOSTILE = {
    "empty": (b"", "empty"),
    "other magic": (b"PK\x03\x04" + b"\0" * 60, "GGUF"),
    "version 1": (header(version=1), "version"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "huge tensor count": (header(tensors=2**60), "left"),
    "huge metadata count": (header(pairs=2**63), "left"),
    "long key": (header(pairs=1) + struct.pack("<Q", 2**62) + b"\0" * 16, "length"),
    "unknown value type": (header(pairs=1) + string(b"k") + struct.pack("<IQ", 99, 0), "value type"),
    "huge array of numbers": (ARRAY + struct.pack("<IQ", 6, 2**61), "left"),
    "huge array of strings": (ARRAY + struct.pack("<IQ", 8, 2**61), "left"),
    "nested arrays": (ARRAY + struct.pack("<IQ", 9, 1) * 50 + b"\0" * 800, "nested"),
    "string beyond the file": (ARRAY + struct.pack("<IQQ", 8, 1, 2**40), "end of the file"),
    "two keys": (header(pairs=2) + (string(b"k") + struct.pack("<IB", 0, 1)) * 2, "twice"),
    "alignment zero": (header(pairs=1) + string(b"general.alignment") + struct.pack("<II", 4, 0), "power of two"),
    "alignment of 24": (header(pairs=1) + string(b"general.alignment") + struct.pack("<II", 4, 24), "power of two"),
    "five dimensions": (header(tensors=1) + tensor(dims=(1,) * 5), "dimensions"),
    "a product that overflows": (padded(header(tensors=1) + tensor(dims=(2**32, 2**32, 2**32))), "product"),
    "beyond the file": (padded(header(tensors=1) + tensor(dims=(4096,))), "ends at byte"),
    "offset beyond the file": (padded(header(tensors=1) + tensor(offset=2**62)), "ends at byte"),
    "misaligned offset": (padded(header(tensors=1) + tensor(offset=3)), "multiple of 32"),
    "unknown type": (padded(header(tensors=1) + tensor(kind=77)), "unknown ggml type"),
    "a type that is not read": (padded(header(tensors=1) + tensor(kind=16)), "IQ2_XXS"),
    "half a block": (padded(header(tensors=1) + tensor(dims=(33,), kind=8)), "multiple of 32"),
    "overlap": (padded(header(tensors=2) + tensor(b"a", (8,)) + tensor(b"b", (8,)), 128), "overlap"),
    "two names": (padded(header(tensors=2) + tensor(b"a") + tensor(b"a", offset=32), 128), "twice"),
    "a name that is no text": (padded(header(tensors=1) + tensor(b"\xff\xfe")), "UTF-8"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(tmp_path, case):
    data, message = HOSTILE[case]
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        read_gguf(tmp_path / "x.gguf")
    assert "\n" not in str(error.value)


def test_version_2_is_read(tmp_path):
    (tmp_path / "x.gguf").write_bytes(padded(header(version=2, tensors=1) + tensor(dims=(4,))))
    assert read_gguf(tmp_path / "x.gguf").tensors["t"].to_float32().tolist() == [0.0] * 4


def test_a_set_of_files_is_one(tmp_path):
    for number in range(2):
        writer = gguf.GGUFWriter(tmp_path / f"m-{number + 1:05d}-of-00002.gguf", "llama")
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", 2)
        writer.add_int32("split.tensors.count", 2)
        writer.add_tensor(f"t{number}", np.full(4, number, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    file = read_gguf(tmp_path / "m-00001-of-00002.gguf")
    assert {name: tensor.to_float32()[0] for name, tensor in file.tensors.items()} == {"t0": 0.0, "t1": 1.0}
    with pytest.raises(CheckpointError, match="00001-of-00002"):
        read_gguf(tmp_path / "m-00002-of-00002.gguf")
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00002"):
        read_gguf(tmp_path / "m-00001-of-00002.gguf")
