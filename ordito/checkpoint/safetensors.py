"""Reading and writing safetensors, the format of Hugging Face: one file, or shards with an index.

    header length u64, header (JSON), data
    header: {"__metadata__": {str: str}, name: {"dtype": str, "shape": [int], "data_offsets": [begin, end]}, ...}

The rules are those of the specification (https://github.com/huggingface/safetensors#format): offsets count from the end
of the header, and the tensors cover the data without holes or overlaps. A header is hostile until checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.stored import DOWNLOAD_AGAIN, ENCODINGS, StoredTensor, checked_nbytes, map_file, shown
from ordito.errors import CheckpointError
from ordito.files import write_atomically

_DTYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8_e4m3",
    "F8_E5M2": "f8_e5m2",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U64": "u64",
    "U32": "u32",
    "U16": "u16",
    "U8": "u8",
    "BOOL": "bool",
}
_DTYPE_OF_ENCODING = {encoding: dtype for dtype, encoding in _DTYPES.items()}
_ENCODING_OF_NUMPY = {form.dtype.newbyteorder("="): encoding for encoding, form in ENCODINGS.items() if form.dtype is not None}

MAX_HEADER = 100_000_000  # bytes; the specification's limit
_MAX_DIMENSIONS = 16  # more than any model uses, fewer than numpy and torch allow
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Deferred:
    """A tensor that is made only when it is written. `data` gives its bytes, (nbytes,), in the `encoding`."""

    shape: tuple[int, ...]
    encoding: str
    data: Callable[[], NDArray[np.uint8]]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return checked_nbytes(self.shape, self.encoding, "a tensor")


Writable = NDArray[Any] | StoredTensor | Deferred
Tensors = Mapping[str, Writable]


@dataclass(frozen=True, slots=True, eq=False)
class SafetensorsFile:
    """An opened safetensors file, or a set of shards as one.

    `files` hold the tensors. `unlisted` are the names of those of `tensors` that the index of shards does not mention.
    """

    path: Path
    files: tuple[Path, ...]
    metadata: dict[str, str]
    tensors: dict[str, StoredTensor]
    unlisted: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises `ValueError` for a duplicate key, or text that is not valid Unicode."""
    for key, value in pairs:
        # JSON can escape half a surrogate pair, which cannot be printed or encoded.
        key.encode()
        if isinstance(value, str):
            value.encode()
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} appears twice")
    return fields


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _parse_object(text: bytes, where: str) -> dict[str, Any]:
    """Parse strict JSON whose outermost value is an object. Raises `CheckpointError`."""
    try:
        # UnicodeError and JSONDecodeError are ValueErrors, as is the refusal of integers of thousands of digits.
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except RecursionError:
        raise CheckpointError(f"{where} is nested too deeply; {DOWNLOAD_AGAIN}") from None
    except ValueError as error:
        raise CheckpointError(f"{where} is not valid JSON ({error}); {DOWNLOAD_AGAIN}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: got a JSON {type(value).__name__}, expected an object; {DOWNLOAD_AGAIN}")
    return value


def _is_text_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _integers(value: object, where: str, what: str, most: int) -> tuple[int, ...]:
    """A JSON list of at most `most` integers of 0 to 2^63 - 1; true and 1.0, which are equal to 1 in Python, are refused."""
    if not isinstance(value, list) or len(value) > most:
        raise CheckpointError(f"{where}: expected {what} to be a list of at most {most} integers; {DOWNLOAD_AGAIN}")
    if not all(type(item) is int and 0 <= item < 1 << 63 for item in value):
        raise CheckpointError(f"{where}: expected {what} to hold integers of at least 0, below 2^63; {DOWNLOAD_AGAIN}")
    return tuple(value)


def _describe(entry: object, where: str) -> tuple[tuple[int, ...], str, int, int]:
    """One entry of the header -> (shape, encoding, begin, end), checked against each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: expected an object with dtype, shape and data_offsets; {DOWNLOAD_AGAIN}")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        got = shown(dtype) if isinstance(dtype, str) else f"a JSON {type(dtype).__name__}"
        raise CheckpointError(f"{where}: got the dtype {got}, expected one of {', '.join(_DTYPES)}")
    encoding = _DTYPES[dtype]
    shape = _integers(entry["shape"], where, "shape", _MAX_DIMENSIONS)
    offsets = _integers(entry["data_offsets"], where, "data_offsets", 2)
    nbytes = checked_nbytes(shape, encoding, where)
    if len(offsets) != 2 or offsets[1] - offsets[0] != nbytes:
        raise CheckpointError(
            f"{where}: got data_offsets {list(offsets)}, expected two integers {nbytes} bytes apart, as {list(shape)} in "
            f"{dtype} needs; {DOWNLOAD_AGAIN}"
        )
    return shape, encoding, offsets[0], offsets[1]


def read_safetensors(path: Path) -> SafetensorsFile:
    """Open one safetensors file. Raises `CheckpointError` for a damaged one, before any tensor is read."""
    path = Path(path)
    buffer = map_file(path)
    length = int.from_bytes(buffer[:8], "little")
    left = len(buffer) - 8
    if left < 0 or length > min(left, MAX_HEADER):
        raise CheckpointError(
            f"{path}: got a header of {length} bytes, expected at most {max(0, min(left, MAX_HEADER))}; the file is "
            "damaged or not a safetensors file: download it again"
        )
    header = buffer[8 : 8 + length]
    # The specification demands this brace, so that no file is valid in another format as well.
    if not header.startswith(b"{"):
        raise CheckpointError(f"{path}: the header does not begin with a brace; this is not a safetensors file")
    table = _parse_object(header, f"{path}: the header")

    metadata = table.pop(_METADATA, {})
    if not _is_text_table(metadata):
        raise CheckpointError(f"{path}: expected {_METADATA} to be an object of strings; {DOWNLOAD_AGAIN}")
    data = np.frombuffer(buffer, np.uint8)[8 + length :]
    tensors: dict[str, StoredTensor] = {}
    extents: list[tuple[int, int, str]] = []
    for name, entry in table.items():
        where = f"{path}: tensor {shown(name)}"
        shape, encoding, begin, end = _describe(entry, where)
        if end > data.nbytes:
            raise CheckpointError(f"{where} ends at byte {end}, but the file has {data.nbytes} of data; {DOWNLOAD_AGAIN}")
        tensors[name] = StoredTensor(name, shape, encoding, data[begin:end])
        extents.append((begin, end, name))

    position = 0
    for begin, end, name in sorted(extents):
        if begin != position:
            problem = "overlaps another tensor" if begin < position else "follows a hole"
            raise CheckpointError(
                f"{path}: tensor {shown(name)} {problem}: got the offset {begin}, expected {position}; {DOWNLOAD_AGAIN}"
            )
        position = end
    if position != data.nbytes:
        raise CheckpointError(
            f"{path}: got {data.nbytes} bytes of data, expected {position}, where the last tensor ends; {DOWNLOAD_AGAIN}"
        )
    return SafetensorsFile(path, (path,), metadata, tensors)


def _plain_name(name: str) -> bool:
    """Whether a name from an index can only mean a safetensors file in the index's own folder, on any system."""
    return name.endswith(".safetensors") and name.isprintable() and not set(name) & set('/\\:*?"<>|')


def read_sharded(index_path: Path) -> SafetensorsFile:
    """Open the shards that a `model.safetensors.index.json` names, as one.

    Every tensor of the index must be in the shard that the index names, and no tensor in two shards. A tensor that is missing
    in the index is kept and reported in `unlisted`: the family decides what to do with it. Metadata is merged; of duplicate
    keys the first shard's is used. The index's `total_size` is ignored: published ones are wrong. Raises `CheckpointError`.
    """
    index_path = Path(index_path)
    buffer = map_file(index_path)
    if len(buffer) > MAX_HEADER:
        raise CheckpointError(f"{index_path}: got {len(buffer)} bytes, expected at most {MAX_HEADER} in an index")
    weight_map = _parse_object(buffer[:], f"{index_path}: the index").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not _is_text_table(weight_map):
        raise CheckpointError(f"{index_path}: expected weight_map, an object of file names; {DOWNLOAD_AGAIN}")
    for file in sorted(set(weight_map.values())):
        if not _plain_name(file):
            raise CheckpointError(
                f"{index_path}: got the file name {shown(file)}, expected the plain name of a .safetensors file in the "
                "same folder; do not trust this index"
            )

    metadata: dict[str, str] = {}
    tensors: dict[str, StoredTensor] = {}
    home: dict[str, str] = {}
    files = tuple(index_path.with_name(file) for file in sorted(set(weight_map.values())))
    for path in files:
        shard, file = read_safetensors(path), path.name
        metadata = shard.metadata | metadata
        for name, tensor in shard.tensors.items():
            if name in home:
                raise CheckpointError(
                    f"{index_path}: tensor {shown(name)} is in {shown(home[name])} and in {shown(file)}, expected one of "
                    f"them; {DOWNLOAD_AGAIN}"
                )
            home[name] = file
            tensors[name] = tensor
    for name, file in weight_map.items():
        if home.get(name) != file:
            found = f"but is in {shown(home[name])}" if name in home else "and in no other shard"
            raise CheckpointError(
                f"{index_path}: tensor {shown(name)} is not in {shown(file)}, as the index says, {found}; {DOWNLOAD_AGAIN}"
            )
    unlisted = tuple(name for name in tensors if name not in weight_map)
    return SafetensorsFile(index_path, files, metadata, tensors, unlisted)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def _encoding(name: str, value: Writable) -> str:
    """The encoding in which a tensor is written, which is the one it has."""
    if isinstance(value, StoredTensor | Deferred):
        if value.encoding not in _DTYPE_OF_ENCODING:
            raise CheckpointError(
                f"tensor {shown(name)}: safetensors has no dtype for {value.encoding}; convert it with to_float32 first"
            )
        return value.encoding
    encoding = _ENCODING_OF_NUMPY.get(value.dtype.newbyteorder("="))
    if encoding is None:
        known = ", ".join(str(dtype) for dtype in _ENCODING_OF_NUMPY)
        raise CheckpointError(f"tensor {shown(name)}: got the numpy type {value.dtype}, expected one of {known}")
    return encoding


def _bytes(value: Writable, encoding: str) -> memoryview:
    """A tensor's bytes, little-endian and row-major; copied only if they are stored differently."""
    if isinstance(value, StoredTensor):
        return value.data.data
    if isinstance(value, Deferred):
        made = value.data()
        assert made.nbytes == value.nbytes, f"{made.nbytes} bytes come where {value.shape} in {encoding} was planned"
        return made.data
    return np.ascontiguousarray(value, ENCODINGS[encoding].dtype).reshape(-1).view(np.uint8).data


def _check(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    """Raise `CheckpointError` for what the format cannot hold, and what `read_safetensors` would refuse."""
    for text in (*tensors, *metadata, *metadata.values()):
        # Half a surrogate pair fits into a Python string, but not into UTF-8.
        if not isinstance(text, str) or text.encode("utf-8", "replace").decode() != text:
            raise CheckpointError(f"{path}: expected names and metadata to be Unicode text, got {shown(str(text))}")
    if _METADATA in tensors:
        raise CheckpointError(f"{path}: a tensor cannot be named {_METADATA}, which the format keeps for itself")
    for name, value in tensors.items():
        if len(value.shape) > _MAX_DIMENSIONS:
            raise CheckpointError(
                f"{path}: tensor {shown(name)} has {len(value.shape)} dimensions, expected at most {_MAX_DIMENSIONS}"
            )
        _encoding(name, value)


def _header(tensors: Tensors, metadata: Mapping[str, str], path: Path) -> bytes:
    """The length and the JSON, padded with spaces so that the data begins at a multiple of 8."""
    table: dict[str, Any] = {_METADATA: dict(metadata)} if metadata else {}
    position = 0
    for name, value in tensors.items():
        end = position + value.nbytes
        dtype = _DTYPE_OF_ENCODING[_encoding(name, value)]
        table[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"{path}: the header would take {len(text)} bytes, expected at most {MAX_HEADER}")
    return len(text).to_bytes(8, "little") + text


def _write_one(path: Path, tensors: Tensors, metadata: Mapping[str, str]) -> None:
    def width(name: str) -> int:
        return ENCODINGS[_encoding(name, tensors[name])].block_bytes

    # Wide elements first, so that every tensor begins at a multiple of its element's size and can be used in place.
    ordered = {name: tensors[name] for name in sorted(tensors, key=width, reverse=True)}
    header = _header(ordered, metadata, path)
    # One tensor at a time is converted, if necessary, so that memory for at most one copy is needed.
    body = (_bytes(value, _encoding(name, value)) for name, value in ordered.items())
    write_atomically(path, chain([header], body))


def _shards(tensors: Tensors, max_bytes: int) -> list[dict[str, Writable]]:
    """Tensors in order, split into shards of at most `max_bytes`; a larger tensor gets a shard of its own."""
    shards: list[dict[str, Writable]] = [{}]
    used = 0
    for name, value in tensors.items():
        if shards[-1] and used + value.nbytes > max_bytes:
            shards.append({})
            used = 0
        shards[-1][name] = value
        used += value.nbytes
    return shards


def write_safetensors(
    path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None, max_shard_bytes: int | None = None
) -> Path:
    """Write tensors to `path`, or, if they exceed `max_shard_bytes`, to shards with an index. Returns the path to open.

    Values are numpy arrays (floats, integers, booleans), StoredTensors, whose bytes are written as they are (that is how bf16
    and fp8 pass through), or `Deferred`, so that a model need not be in memory as a whole. Without `metadata`,
    {"format": "pt"} is written, which transformers asks for. Shards of `model.safetensors` are
    `model-00001-of-00002.safetensors`, ... and `model.safetensors.index.json`, Hugging Face's layout.

    Each file is written atomically, the index last. Then a single file or an index of the same name that they replace is
    deleted, because other programs would read it instead. Older shards of another count remain. Raises `CheckpointError`.
    """
    path = Path(path)
    metadata = {"format": "pt"} if metadata is None else metadata
    _check(path, tensors, metadata)
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise CheckpointError(f"{path}: got max_shard_bytes={max_shard_bytes}, expected at least 1")
    shards = [dict(tensors)] if max_shard_bytes is None else _shards(tensors, max_shard_bytes)
    index_path = path.with_name(path.name + ".index.json")
    if len(shards) == 1:
        _write_one(path, tensors, metadata)
        index_path.unlink(missing_ok=True)
        return path

    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: expected a name that ends in .safetensors for a model in shards")
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        shard_path = path.with_name(f"{path.stem}-{number:05d}-of-{len(shards):05d}.safetensors")
        _write_one(shard_path, shard, metadata)
        weight_map |= dict.fromkeys(shard, shard_path.name)
    total = sum(value.nbytes for value in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    text = json.dumps(index, indent=2, ensure_ascii=False) + "\n"
    write_atomically(index_path, [text.encode()])
    path.unlink(missing_ok=True)
    return index_path
