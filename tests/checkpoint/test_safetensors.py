"""safetensors: what we write others read, what others write we read, and back again."""

from __future__ import annotations

import json
import string
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from ordito.checkpoint.safetensors import Deferred, read_safetensors, read_sharded, write_safetensors
from ordito.checkpoint.stored import StoredTensor
from ordito.errors import CheckpointError

# The folder is shared by the examples on purpose: every example replaces the file of the one before.
ROUND_TRIP = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

NUMPY_TYPES = ["<f4", "<f2", "<f8", "i1", "<i2", "<i4", "<i8", "u1", "<u2", "<u4", "<u8", "?"]
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
arrays = st.sampled_from(NUMPY_TYPES).flatmap(
    lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
tensors = st.dictionaries(names, arrays, max_size=6)
metadata = st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=3)


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """The same names, types, shapes and bytes (so NaN equals itself)."""
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype == value.dtype
        assert got[name].shape == value.shape
        assert got[name].tobytes() == value.tobytes()


def values(file: Any) -> dict[str, np.ndarray]:
    return {name: tensor.to_numpy() for name, tensor in file.tensors.items()}


def bf16(name: str, *items: float) -> StoredTensor:
    upper = np.array(items, "<f4").view("<u2")[1::2].copy()
    return StoredTensor(name, (len(items),), "bf16", upper.view(np.uint8))


@ROUND_TRIP
@given(tensors=tensors, metadata=metadata)
def test_write_then_read(tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", tensors, metadata)
    file = read_safetensors(path)
    assert_same(values(file), tensors)
    assert file.metadata == metadata
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


@ROUND_TRIP
@given(tensors=tensors)
def test_others_read_what_we_write(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", tensors)
    assert_same(load_file(path), tensors)


@ROUND_TRIP
# Of nothing at all, the safetensors package (0.8.0) writes a header that is no JSON.
@given(tensors=tensors.filter(bool), metadata=metadata)
def test_we_read_what_others_write(tmp_path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    # With neither tensors nor metadata, safetensors 0.8 given {} (not None) writes a header that it cannot read itself.
    save_file(tensors, tmp_path / "x.safetensors", metadata or None)
    file = read_safetensors(tmp_path / "x.safetensors")
    assert_same(values(file), tensors)
    assert file.metadata == metadata


@ROUND_TRIP
@given(tensors=st.dictionaries(st.text(string.ascii_letters, min_size=1), arrays, min_size=1), limit=st.integers(1, 600))
def test_shards(tmp_path: Path, tensors: dict[str, np.ndarray], limit: int) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", tensors, max_shard_bytes=limit)
    if path.name == "model.safetensors":
        assert_same(values(read_safetensors(path)), tensors)
        return
    file = read_sharded(path)
    assert_same(values(file), tensors)
    assert file.unlisted == ()
    for name in set(json.loads(path.read_text())["weight_map"].values()):
        shard = load_file(tmp_path / name)
        assert len(shard) == 1 or sum(value.nbytes for value in shard.values()) <= limit


def test_layout_of_shards(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "model.safetensors", {"a": np.ones(4), "b": np.ones(3)}, max_shard_bytes=40)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    assert json.loads(path.read_text()) == {
        "metadata": {"total_size": 56},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }


def test_what_others_would_read_first_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    old, new = {"a": np.zeros(8)}, {"a": np.ones(8), "b": np.ones(8)}
    write_safetensors(path, old)
    index = write_safetensors(path, new, max_shard_bytes=64)
    assert not path.exists()
    assert_same(values(read_sharded(index)), new)
    write_safetensors(path, old)
    assert not index.exists()
    assert_same(values(read_safetensors(path)), old)


def test_bf16_passes_through(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"w": bf16("other name", 1.5, -2.0)})
    with safe_open(path, "numpy") as file:
        assert file.get_slice("w").get_dtype() == "BF16"
    tensor = read_safetensors(path).tensors["w"]
    assert (tensor.name, tensor.encoding) == ("w", "bf16")
    np.testing.assert_array_equal(tensor.to_float32(), [1.5, -2.0])


def test_deferred_tensors_are_made_one_after_the_other(tmp_path: Path) -> None:
    made: list[weakref.ref[Any]] = []

    def data(value: int) -> np.ndarray:
        assert sum(one() is not None for one in made) <= 1  # that of the tensor before, still being written
        array = np.full(64, value, np.uint8)
        made.append(weakref.ref(array))
        return array

    tensors = {str(n): Deferred((4, 16), "u8", lambda n=n: data(n)) for n in range(5)}
    path = write_safetensors(tmp_path / "m.safetensors", tensors, max_shard_bytes=150)
    assert len(made) == 5
    written = read_sharded(path).tensors
    assert {name: set(tensor.to_numpy().reshape(-1)) for name, tensor in written.items()} == {str(n): {n} for n in range(5)}


def test_a_file_can_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": np.arange(5.0), "b": np.arange(3)})
    before = path.read_bytes()
    write_safetensors(path, read_safetensors(path).tensors)
    assert path.read_bytes() == before


def test_odd_arrays(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    odd = {
        "transposed": base.T,
        "strided": base[::2, ::3],
        "big-endian": base.astype(">f4"),
        "scalar": np.float32(3).reshape(()),
    }
    loaded = load_file(write_safetensors(tmp_path / "x.safetensors", odd))
    for name, value in odd.items():
        np.testing.assert_array_equal(loaded[name], value)


def test_tensors_are_aligned(tmp_path: Path) -> None:
    small_first = {"a": np.zeros(3, np.int8), "b": np.zeros(1, np.float16), "c": np.ones(2), "d": np.ones(1, np.float32)}
    for name, tensor in read_safetensors(write_safetensors(tmp_path / "x", small_first)).tensors.items():
        assert tensor.to_numpy().flags.aligned, name


def test_transformers_finds_its_format(tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(1)})
    with safe_open(path, "numpy") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"a": np.zeros(2, complex)}, None, "complex128"),
        ({"a": np.array(["x"])}, None, "numpy type"),
        ({"__metadata__": np.zeros(2)}, None, "cannot be named"),
        ({"\ud800": np.zeros(2)}, None, "Unicode"),
        ({"a": np.zeros(2)}, {"k": 1}, "Unicode text, got '1'"),
        ({"a": np.zeros((1,) * 17)}, None, "17 dimensions"),
        ({"a": StoredTensor("a", (32,), "q8_0", np.zeros(34, np.uint8))}, None, "no dtype for q8_0"),
    ],
)
def test_what_cannot_be_written(tmp_path: Path, tensors: Any, metadata: Any, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"old")
    with pytest.raises(CheckpointError, match=message):
        write_safetensors(path, tensors, metadata)
    assert path.read_bytes() == b"old"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"a": np.zeros(2)})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="cannot be written .No space left"):
        write_safetensors(path, {"a": np.ones(2)})
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_safetensors(tmp_path / "none" / "x.safetensors", {"a": np.zeros(2)})


def sharded(folder: Path, shards: dict[str, list[str]], weight_map: Any) -> Path:
    for number, (file, inside) in enumerate(shards.items()):
        write_safetensors(folder / file, {name: np.full(2, number) for name in inside}, {"format": "pt", file: "here"})
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def test_unlisted_tensors_are_kept_and_reported(tmp_path: Path) -> None:
    index = sharded(
        tmp_path, {"1.safetensors": ["a", "extra"], "2.safetensors": ["b"]}, {"a": "1.safetensors", "b": "2.safetensors"}
    )
    file = read_sharded(index)
    assert set(file.tensors) == {"a", "b", "extra"}
    assert file.unlisted == ("extra",)
    assert file.metadata == {"format": "pt", "1.safetensors": "here", "2.safetensors": "here"}


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "1.safetensors", "c": "1.safetensors"}, "'c' is not in '1.safetensors', as the index says, and in no other"),
        ({"a": "1.safetensors", "b": "1.safetensors", "x": "2.safetensors"}, "but is in '2.safetensors'"),
        ({"a": "1.safetensors", "b": "3.safetensors"}, "'twice' is in '1.safetensors' and in '3.safetensors'"),
        ({"a": "4.safetensors"}, "no such file"),
        ({}, "weight_map"),
        ([], "weight_map"),
        ({"a": 1}, "weight_map"),
    ],
)
def test_index_that_is_wrong(tmp_path: Path, weight_map: Any, message: str) -> None:
    shards = {"1.safetensors": ["a", "twice"], "2.safetensors": ["b"], "3.safetensors": ["twice"]}
    with pytest.raises(CheckpointError, match=message):
        read_sharded(sharded(tmp_path, shards, weight_map))


@pytest.mark.parametrize(
    "name",
    [
        "../1.safetensors",
        "/etc/1.safetensors",
        "sub/1.safetensors",
        "..\\1.safetensors",
        "C:1.safetensors",
        "1.bin",
        "..",
        "",
        "a\0.safetensors",
        "a\n.safetensors",
    ],
)
def test_index_that_points_elsewhere(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder, folder / "sub"):
        write_safetensors(place / "1.safetensors", {"a": np.zeros(1)})
    with pytest.raises(CheckpointError, match="do not trust this index"):
        read_sharded(sharded(folder, {}, {"a": name}))
