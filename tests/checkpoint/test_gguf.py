"""GGUF: what the gguf package writes we read, in every type of metadata and of tensor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize as gguf_dequantize
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ordito.checkpoint.gguf import read_gguf
from ordito.errors import CheckpointError

# The folder is shared by the examples on purpose: every example replaces the file of the one before.
ROUND_TRIP = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

QUANTIZED = [
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_nl",
    "iq4_xs",
    "mxfp4",
    "bf16",
]
INTEGERS = {
    GGUFValueType.UINT8: (0, 255),
    GGUFValueType.INT8: (-128, 127),
    GGUFValueType.UINT16: (0, 2**16 - 1),
    GGUFValueType.INT16: (-(2**15), 2**15 - 1),
    GGUFValueType.UINT32: (0, 2**32 - 1),
    GGUFValueType.INT32: (-(2**31), 2**31 - 1),
    GGUFValueType.UINT64: (0, 2**64 - 1),
    GGUFValueType.INT64: (-(2**63), 2**63 - 1),
}


def write(path: Path, fill: Any, **options: Any) -> Path:
    """A file by the gguf package; `fill(writer)` adds what it is to hold."""
    writer = GGUFWriter(path, "llama", **options)
    fill(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def with_tensors(**tensors: np.ndarray) -> Any:
    def fill(writer: GGUFWriter) -> None:
        for name, value in tensors.items():
            writer.add_tensor(name, value)

    return fill


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
scalars = st.one_of(
    *(st.tuples(st.just(kind), st.integers(*limits)) for kind, limits in INTEGERS.items()),
    st.tuples(st.just(GGUFValueType.FLOAT32), st.floats(width=32)),
    st.tuples(st.just(GGUFValueType.FLOAT64), st.floats()),
    st.tuples(st.just(GGUFValueType.BOOL), st.booleans()),
    st.tuples(st.just(GGUFValueType.STRING), texts.filter(bool)),
)


@ROUND_TRIP
@given(entries=st.dictionaries(texts.filter(bool), scalars, max_size=8))
def test_metadata(tmp_path: Path, entries: dict[str, tuple[GGUFValueType, Any]]) -> None:
    entries.pop("general.architecture", None)
    entries.pop("general.alignment", None)

    def fill(writer: GGUFWriter) -> None:
        for key, (kind, value) in entries.items():
            writer.add_key_value(key, value, kind)

    metadata = read_gguf(write(tmp_path / "x.gguf", fill)).metadata
    assert metadata.pop("general.architecture") == "llama"
    assert metadata.keys() == entries.keys()
    for key, (kind, value) in entries.items():
        assert type(metadata[key]) is type(value)
        narrow = np.float32 if kind == GGUFValueType.FLOAT32 else np.float64
        if isinstance(value, float):
            assert np.array_equal(narrow(metadata[key]), narrow(value), equal_nan=True)  # type: ignore[arg-type]
        else:
            assert metadata[key] == value


@pytest.mark.parametrize("value", [1e-5, 1e-6, 0.1, 500000.0, 0.0883883461356163, 3.4028234663852886e38, float("inf")])
def test_float32_is_the_shortest_decimal(tmp_path: Path, value: float) -> None:
    metadata = read_gguf(write(tmp_path / "x.gguf", lambda writer: writer.add_float32("f", value))).metadata
    got = metadata["f"]
    assert isinstance(got, float)
    assert np.float32(got) == np.float32(value)
    assert len(repr(got)) <= len(repr(value))


def test_float32_that_its_author_wrote(tmp_path: Path) -> None:
    metadata = read_gguf(write(tmp_path / "x.gguf", lambda writer: writer.add_layer_norm_rms_eps(1e-5))).metadata
    assert metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5


def test_arrays(tmp_path: Path) -> None:
    def fill(writer: GGUFWriter) -> None:
        writer.add_array("ints", [1, -2, 3])
        writer.add_array("floats", [0.5, -1.25])
        writer.add_array("bools", [True, False])
        writer.add_array("strings", ["a", "", "è"])
        writer.add_array("nested", [[1, 2], [3]])

    metadata = read_gguf(write(tmp_path / "x.gguf", fill)).metadata
    for key, dtype, values in [
        ("ints", np.int32, [1, -2, 3]),
        ("floats", np.float32, [0.5, -1.25]),
        ("bools", np.bool_, [True, False]),
    ]:
        got = metadata[key]
        assert isinstance(got, np.ndarray)
        assert got.dtype == dtype
        assert got.tolist() == values
    assert metadata["strings"] == ["a", "", "è"]
    nested = metadata["nested"]
    assert isinstance(nested, list)
    assert [item.tolist() for item in nested] == [[1, 2], [3]]


def test_tokens_need_not_be_whole_characters(tmp_path: Path) -> None:
    tokens = [b"ok", "è".encode()[:1], b"\xff\xfe"]
    path = write(tmp_path / "x.gguf", lambda writer: writer.add_array("tokenizer.ggml.tokens", tokens))
    assert read_gguf(path).metadata["tokenizer.ggml.tokens"] == ["ok", "�", "��"]
    path = write(tmp_path / "x.gguf", lambda writer: writer.add_array("general.tags", tokens))
    with pytest.raises(CheckpointError, match="'general.tags': string 1 is not UTF-8"):
        read_gguf(path)


@pytest.mark.parametrize("encoding", QUANTIZED)
def test_quantized_tensors(tmp_path: Path, encoding: str) -> None:
    kind = GGMLQuantizationType[encoding.upper()]
    raw = np.random.default_rng(3).integers(0, 256, (3, 5, 2 * GGML_QUANT_SIZES[kind][1]), dtype=np.uint8)
    path = write(tmp_path / "x.gguf", lambda writer: writer.add_tensor("w", raw, raw_dtype=kind))
    tensor = read_gguf(path).tensors["w"]
    assert tensor.encoding == encoding
    assert tensor.shape == (3, 5, 2 * GGML_QUANT_SIZES[kind][0])
    with np.errstate(all="ignore"):
        expected = gguf_dequantize(raw, kind)
    np.testing.assert_array_equal(tensor.to_float32(), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64])
def test_plain_tensors(tmp_path: Path, dtype: Any) -> None:
    value = np.arange(-12, 12).reshape(2, 3, 4).astype(dtype)
    tensor = read_gguf(write(tmp_path / "x.gguf", with_tensors(w=value))).tensors["w"]
    got = tensor.to_numpy()
    assert got.dtype == value.dtype
    np.testing.assert_array_equal(got, value)


def test_every_tensor_is_where_gguf_finds_it(tmp_path: Path) -> None:
    values = {f"t{size}": np.arange(size, dtype=np.float32) for size in (1, 7, 8, 9, 33)}
    path = write(tmp_path / "x.gguf", with_tensors(**values))
    file = read_gguf(path)
    assert list(file.tensors) == [tensor.name for tensor in GGUFReader(path).tensors]
    for name, value in values.items():
        np.testing.assert_array_equal(file.tensors[name].to_float32(), value)


def test_alignment(tmp_path: Path) -> None:
    def fill(writer: GGUFWriter) -> None:
        writer.add_custom_alignment(128)
        with_tensors(a=np.ones(3, np.float32), b=np.full(5, 2, np.float32))(writer)

    file = read_gguf(write(tmp_path / "x.gguf", fill))
    assert file.alignment == 128
    np.testing.assert_array_equal(file.tensors["b"].to_float32(), [2] * 5)


def test_version_2_is_read_as_version_3(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", with_tensors(w=np.ones(3, np.float32)))
    assert read_gguf(path).version == 3
    raw = bytearray(path.read_bytes())
    raw[4] = 2
    path.write_bytes(raw)
    file = read_gguf(path)
    assert file.version == 2
    assert file.tensors["w"].shape == (3,)


def test_big_endian_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.gguf", with_tensors(w=np.ones(3, np.float32)), endianess=GGUFEndian.BIG)
    with pytest.raises(CheckpointError, match="big-endian, expected little-endian"):
        read_gguf(path)


@pytest.mark.parametrize("kind", ["NVFP4", "Q8_1", "Q8_K"])
def test_unsupported_encodings_are_named(tmp_path: Path, kind: str) -> None:
    number = GGMLQuantizationType[kind]
    raw = np.zeros((2, GGML_QUANT_SIZES[number][1]), np.uint8)
    path = write(tmp_path / "x.gguf", lambda writer: writer.add_tensor("blk.0.w", raw, raw_dtype=number))
    with pytest.raises(CheckpointError, match=f"'blk.0.w': the encoding {kind} is not supported"):
        read_gguf(path)


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    """Five tensors in three files."""
    fill = with_tensors(**{f"t{number}": np.full(4, number, np.float32) for number in range(5)})
    write(tmp_path / "m.gguf", fill, split_max_tensors=2)
    paths = sorted(tmp_path.glob("m-*.gguf"))
    assert [path.name for path in paths] == [f"m-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    return paths


def test_split_files_are_one(split: list[Path]) -> None:
    file = read_gguf(split[0])
    assert file.metadata["general.architecture"] == "llama"
    for number in range(5):
        np.testing.assert_array_equal(file.tensors[f"t{number}"].to_float32(), [number] * 4)


def test_split_is_opened_at_its_first_file(split: list[Path]) -> None:
    with pytest.raises(CheckpointError, match="not the first of its set of 3; open m-00001-of-00003.gguf"):
        read_gguf(split[1])


def test_split_with_a_missing_file(split: list[Path]) -> None:
    split[2].unlink()
    with pytest.raises(CheckpointError, match="m-00003-of-00003.gguf: there is no such file"):
        read_gguf(split[0])


def test_split_with_a_wrong_file(split: list[Path]) -> None:
    shutil.copy(split[1], split[2])
    with pytest.raises(CheckpointError, match="number 2 of 3, expected 3 of 3"):
        read_gguf(split[0])


def test_split_with_another_name(split: list[Path]) -> None:
    other = split[0].with_name("other.gguf")
    split[0].rename(other)
    with pytest.raises(CheckpointError, match="one of 3, expected a name that ends in -00001-of-00003.gguf"):
        read_gguf(other)


def test_split_with_too_few_tensors(split: list[Path]) -> None:
    raw = split[0].read_bytes()
    key = b"split.tensors.count"
    at = raw.index(key) + len(key) + 4
    assert raw[at] == 5
    split[0].write_bytes(raw[:at] + b"\x06" + raw[at + 1 :])
    with pytest.raises(CheckpointError, match="got 5 tensors in the set, expected 6"):
        read_gguf(split[0])


def test_split_with_a_tensor_twice(split: list[Path]) -> None:
    raw = split[2].read_bytes()
    assert raw.count(b"t4") == 1
    split[2].write_bytes(raw.replace(b"t4", b"t0"))
    with pytest.raises(CheckpointError, match="'t0' is also in an earlier file"):
        read_gguf(split[0])
