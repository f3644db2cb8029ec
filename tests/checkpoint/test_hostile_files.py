"""Hostile files: each is refused with a CheckpointError, without reading past its end or allocating what it claims."""

from __future__ import annotations

import json
import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.safetensors import read_safetensors, read_sharded
from ordito.errors import CheckpointError

Read = Callable[[Path], Any]
READERS = [read_gguf, read_safetensors, read_sharded]


def refused(read: Read, path: Path, message: str) -> None:
    """The file is refused with this message, and little memory is asked for meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=message) as caught:
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert str(path.name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", READERS)
class TestNotAFile:
    def test_missing(self, tmp_path: Path, read: Read) -> None:
        refused(read, tmp_path / "none", "there is no such file")

    def test_empty(self, tmp_path: Path, read: Read) -> None:
        (tmp_path / "x").touch()
        refused(read, tmp_path / "x", "empty")

    def test_directory(self, tmp_path: Path, read: Read) -> None:
        refused(read, tmp_path, "directory|cannot be opened")

    def test_fifo_does_not_hang(self, tmp_path: Path, read: Read) -> None:
        os.mkfifo(tmp_path / "pipe")
        refused(read, tmp_path / "pipe", "not a regular file")

    def test_null_character(self, tmp_path: Path, read: Read) -> None:
        with pytest.raises(CheckpointError, match="cannot be opened"):
            read(tmp_path / "a\0b")

    def test_one_byte(self, tmp_path: Path, read: Read) -> None:
        (tmp_path / "x").write_bytes(b"G")
        refused(read, tmp_path / "x", "download it again|not a GGUF file")


# ---------------------------------------------------------------------------------------------------------------------
# GGUF


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: bytes = b"w", sizes: tuple[int, ...] = (4,), kind: int = 0, offset: int = 0) -> bytes:
    shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
    return string(name) + shape + struct.pack("<IQ", kind, offset)


def gguf(
    *entries: bytes, tensors: tuple[bytes, ...] = (), data: bytes = b"", version: int = 3, counts: tuple[int, int] | None = None
) -> bytes:
    """A GGUF file of parts as they are given, aligned to 32."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(tensors), len(entries))))
    body = head + b"".join(entries) + b"".join(tensors)
    return body + bytes(-len(body) % 32) + data


U32 = struct.Struct("<I").pack
U64 = struct.Struct("<Q").pack
FLOATS = bytes(64)


def nested(depth: int) -> bytes:
    return b"".join(U32(9) + U64(1) for _ in range(depth)) + U32(0) + U64(0)


HOSTILE_GGUF = {
    "magic": (b"GGML" + bytes(40), "not a GGUF file"),
    "version 1": (gguf(version=1), "version 1, expected 2 or 3"),
    "version 0": (gguf(version=0), "version 0, expected 2 or 3"),
    "big-endian": (b"GGUF" + bytes([0, 0, 0, 3]) + bytes(16), "big-endian"),
    "cut in the counts": (gguf()[:20], "metadata count takes at least 8 bytes"),
    "2^60 entries": (gguf(counts=(0, 1 << 60)), "metadata of 1152921504606846976 entries"),
    "2^64 - 1 tensors": (gguf(counts=(2**64 - 1, 0)), "descriptions of 18446744073709551615 tensors"),
    "2^60 numbers": (gguf(entry(b"k", 9, U32(4) + U64(1 << 60))), "'k', an array of 1152921504606846976 numbers"),
    "2^60 strings": (gguf(entry(b"k", 9, U32(8) + U64(1 << 60))), "'k', an array of 1152921504606846976 elements"),
    "2^60 arrays": (gguf(entry(b"k", 9, U32(9) + U64(1 << 60))), "'k', an array of 1152921504606846976 elements"),
    "long string": (gguf(entry(b"k", 8, U64(1 << 62))), "'k' takes at least 4611686018427387904 bytes"),
    "long string in an array": (gguf(entry(b"k", 9, U32(8) + U64(1) + U64(1 << 62))), "string 0 of 1 ends past the end"),
    "strings cut short": (gguf(entry(b"k", 9, U32(8) + U64(2) + U64(8) + bytes(2)), data=bytes(5)), "string . of 2 ends past"),
    "long key": (gguf(U64(65536) + bytes(70000)), "length of 65536 bytes, expected at most 65535"),
    "key not UTF-8": (gguf(entry(b"\xff", 0, b"\0")), "not UTF-8"),
    "value not UTF-8": (gguf(entry(b"k", 8, string(b"\xff"))), "'k' is not UTF-8"),
    "key twice": (gguf(entry(b"k", 0, b"\0"), entry(b"k", 0, b"\1")), "'k' appears twice"),
    "unknown type": (gguf(entry(b"k", 13, bytes(8))), "value type 13"),
    "unknown element type": (gguf(entry(b"k", 9, U32(99) + U64(0))), "elements of type 99"),
    "truth of 2": (gguf(entry(b"k", 7, b"\2")), "the byte 2 for a truth value"),
    "truths of 2": (gguf(entry(b"k", 9, U32(7) + U64(2) + b"\1\2")), "other than 0 and 1"),
    "deep arrays": (gguf(entry(b"k", 9, nested(100_000))), "nested deeper"),
    "alignment 0": (gguf(entry(b"general.alignment", 4, U32(0))), "got '0' of type 4, expected a power of two"),
    "alignment 24": (gguf(entry(b"general.alignment", 4, U32(24))), "got '24' of type 4, expected a power of two"),
    "alignment text": (gguf(entry(b"general.alignment", 8, string(b"32"))), "of type 8, expected a power of two"),
    "alignment 64-bit": (gguf(entry(b"general.alignment", 10, U64(32))), "of type 10, expected a power of two"),
    "tensor twice": (gguf(tensors=(tensor(), tensor(offset=32)), data=FLOATS), "'w' appears twice"),
    "tensor name not UTF-8": (gguf(tensors=(tensor(b"\xff"),), data=FLOATS), "tensor 0 is not UTF-8"),
    "5 dimensions": (gguf(tensors=(tensor(sizes=(1,) * 5),), data=FLOATS), "5 dimensions, expected at most 4"),
    "2^32 - 1 dimensions": (gguf(tensors=(string(b"w") + U32(2**32 - 1) + bytes(12),)), "dimensions, expected at most 4"),
    "negative size": (gguf(tensors=(tensor(sizes=(2**64 - 1,)),), data=FLOATS), "below 2\\^59"),
    "overflowing shape": (gguf(tensors=(tensor(sizes=(1 << 32, 1 << 32, 1)),), data=FLOATS), "below 2\\^59"),
    "overflow hidden by 0": (gguf(tensors=(tensor(sizes=(1 << 62, 1 << 62, 0)),), data=FLOATS), "below 2\\^59"),
    "partial block": (gguf(tensors=(tensor(sizes=(33,), kind=8),), data=FLOATS), "rows of 33 elements encoded as q8_0"),
    "unknown tensor type": (gguf(tensors=(tensor(kind=4242),), data=FLOATS), "unknown ggml type 4242"),
    "removed tensor type": (gguf(tensors=(tensor(kind=31),), data=FLOATS), "Q4_0_4_4 is not supported"),
    "misaligned": (gguf(tensors=(tensor(offset=4),), data=FLOATS), "offset 4, expected a multiple of 32"),
    "out of range": (gguf(tensors=(tensor(offset=64),), data=FLOATS), "'w' ends at byte"),
    "far out of range": (gguf(tensors=(tensor(offset=2**64 - 32),), data=FLOATS), "'w' ends at byte"),
    "larger than the file": (gguf(tensors=(tensor(sizes=(17,)),), data=FLOATS), "'w' ends at byte"),
    "overlap": (gguf(tensors=(tensor(sizes=(9,)), tensor(b"v", offset=32)), data=FLOATS), "'w' and 'v' overlap"),
    "same bytes": (gguf(tensors=(tensor(), tensor(b"v")), data=FLOATS), "overlap"),
    "split without a name": (gguf(entry(b"split.count", 2, b"\2\0")), "-00001-of-00002.gguf"),
    "split of text": (gguf(entry(b"split.count", 8, string(b"2"))), "'split.count' is not a count"),
    "split of minus one": (gguf(entry(b"split.count", 5, b"\xff" * 4)), "'split.count' is not a count"),
}


@pytest.mark.parametrize("name", HOSTILE_GGUF)
def test_hostile_gguf(tmp_path: Path, name: str) -> None:
    raw, message = HOSTILE_GGUF[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    refused(read_gguf, path, message)


def test_names_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(tensors=(tensor(b"\x1b[2J\n" + b"w" * 500, offset=1),), data=FLOATS))
    refused(read_gguf, path, r"tensor '\\x1b\[2J\\nw+\.\.\.'")


def test_sound_gguf(tmp_path: Path) -> None:
    """The parts above are sound when put together soundly, so that the refusals are due to the lies alone."""
    path = tmp_path / "x.gguf"
    entries = (entry(b"k", 9, nested(2)), entry(b"general.alignment", 4, U32(32)), entry(b"t", 7, b"\1"))
    tensors = (tensor(), tensor(b"v", offset=32), tensor(b"scalar", (), offset=64), tensor(b"none", (0,)))
    path.write_bytes(gguf(*entries, tensors=tensors, data=FLOATS + bytes(4)))
    file = read_gguf(path)
    assert {name: item.shape for name, item in file.tensors.items()} == {"w": (4,), "v": (4,), "scalar": (), "none": (0,)}
    assert file.tensors["none"].to_float32().shape == (0,)
    assert file.metadata["t"] is True


# ---------------------------------------------------------------------------------------------------------------------
# safetensors


def safetensors(header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def one(shape: Any = (4,), offsets: Any = (0, 16), dtype: Any = "F32", **more: Any) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


def two(first: tuple[int, int], second: tuple[int, int]) -> dict[str, Any]:
    return {
        name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for name, (begin, end) in (("a", first), ("b", second))
    }


D16 = bytes(16)

HOSTILE_SAFETENSORS = {
    "7 bytes": (bytes(7), "header of 0 bytes"),
    "header longer than the file": (safetensors(b"{}", length=3), "header of 3 bytes, expected at most 2"),
    "header of 2^63": (safetensors(b"{}", length=1 << 63), "header of 9223372036854775808 bytes"),
    "header of nothing": (safetensors(b""), "brace"),
    "header is a list": (safetensors(b"[]"), "brace"),
    "header begins with a space": (safetensors(b" {}"), "brace"),
    "header is a string": (safetensors(b'"{}"'), "brace"),
    "not JSON": (safetensors(b"{w}"), "not valid JSON"),
    "two objects": (safetensors(b"{}{}"), "not valid JSON"),
    "not UTF-8": (safetensors(b'{"\xff": {}}'), "not valid JSON"),
    "deep lists": (safetensors(b'{"w":' + b"[" * 20_000), "nested too deeply"),
    "deep objects": (safetensors(b'{"w":' * 20_000), "nested too deeply"),
    "tensor twice": (safetensors(b'{"w": {"dtype": "U8"}, "w": {}}'), "'w' appears twice"),
    "field twice": (safetensors(b'{"w": {"dtype": "U8", "dtype": "U8"}}'), "'dtype' appears twice"),
    "half a surrogate": (safetensors(b'{"\\ud800": {}}'), "not valid JSON"),
    "NaN": (safetensors(b'{"w": NaN}'), "NaN is not JSON"),
    "infinite size": (safetensors(b'{"w": {"dtype": "U8", "shape": [Infinity]}}'), "Infinity is not JSON"),
    "number of 5000 digits": (safetensors(b'{"w": ' + b"9" * 5000 + b"}"), "not valid JSON"),
    "tensor is a list": (safetensors({"w": []}), "dtype, shape and data_offsets"),
    "tensor is a number": (safetensors({"w": 1}), "dtype, shape and data_offsets"),
    "field missing": (safetensors({"w": {"dtype": "U8", "shape": []}}), "dtype, shape and data_offsets"),
    "field unknown": (safetensors(one(scale=2), D16), "dtype, shape and data_offsets"),
    "dtype unknown": (safetensors(one(dtype="F4"), D16), "got the dtype 'F4'"),
    "dtype a list": (safetensors(one(dtype=["F32"]), D16), "got the dtype a JSON list"),
    "dtype null": (safetensors(one(dtype=None), D16), "got the dtype a JSON NoneType"),
    "shape a number": (safetensors(one(shape=4), D16), "shape to be a list"),
    "shape of floats": (safetensors(one(shape=[4.0]), D16), "shape to hold integers"),
    "shape of booleans": (safetensors(one(shape=[4, True]), D16), "shape to hold integers"),
    "shape of text": (safetensors(one(shape=["4"]), D16), "shape to hold integers"),
    "shape negative": (safetensors(one(shape=[-2, -2]), D16), "shape to hold integers"),
    "shape of 2^63": (safetensors(one(shape=[1 << 63]), D16), "shape to hold integers"),
    "shape overflows": (safetensors(one(shape=[1 << 32, 1 << 32]), D16), "below 2\\^59"),
    "overflow hidden by 0": (safetensors(one(shape=[0, 1 << 62, 1 << 62], offsets=[0, 0])), "below 2\\^59"),
    "17 dimensions": (safetensors(one(shape=[1] * 17, offsets=[0, 4]), bytes(4)), "list of at most 16"),
    "offsets of booleans": (safetensors(one([1], [False, True], "U8"), b"\0"), "data_offsets to hold integers"),
    "offsets of floats": (safetensors(one(offsets=[0, 16.0]), D16), "data_offsets to hold integers"),
    "one offset": (safetensors(one(offsets=[16]), D16), "expected two integers"),
    "three offsets": (safetensors(one(offsets=[0, 8, 16]), D16), "list of at most 2"),
    "end before begin": (safetensors(one(offsets=[16, 0]), D16), "16 bytes apart"),
    "negative begin": (safetensors(one(offsets=[-16, 0]), D16), "data_offsets to hold integers"),
    "shape does not fit": (safetensors(one(offsets=[0, 15]), D16), "16 bytes apart"),
    "out of range": (safetensors(one(), bytes(15)), "ends at byte 16, but the file has 15"),
    "2^58 elements": (safetensors(one([1 << 58], [0, 1 << 60]), D16), "ends at byte 1152921504606846976"),
    "bytes left over": (safetensors(one(), bytes(17)), "got 17 bytes of data, expected 16"),
    "bytes without tensors": (safetensors({}, b"\0"), "got 1 bytes of data, expected 0"),
    "starts with a hole": (safetensors(two((1, 2), (2, 4)), bytes(4)), "'a' follows a hole"),
    "hole": (safetensors(two((0, 2), (3, 4)), bytes(4)), "'b' follows a hole"),
    "overlap": (safetensors(two((0, 3), (2, 4)), bytes(4)), "'b' overlaps another tensor"),
    "inside another": (safetensors(two((0, 4), (1, 2)), bytes(4)), "'b' overlaps another tensor"),
    "same bytes": (safetensors(two((0, 4), (0, 4)), bytes(4)), "overlaps another tensor"),
    "metadata a list": (safetensors({"__metadata__": []}), "object of strings"),
    "metadata of numbers": (safetensors({"__metadata__": {"a": 1}}), "object of strings"),
}


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_hostile_safetensors(tmp_path: Path, name: str) -> None:
    raw, message = HOSTILE_SAFETENSORS[name]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    refused(read_safetensors, path, message)


def test_header_of_more_than_100_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(safetensors(b"{}", length=100_000_001))
    os.truncate(path, 100_000_100)  # a hole in the file, which takes no space
    refused(read_safetensors, path, "expected at most 100000000")


def test_index_of_more_than_100_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(b"{")
    os.truncate(path, 100_000_001)
    refused(read_sharded, path, "expected at most 100000000 in an index")


def test_sound_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    header = two((0, 3), (3, 4)) | {"none": {"dtype": "F32", "shape": [0], "data_offsets": [3, 3]}}
    path.write_bytes(safetensors(header, bytes(4)))
    assert {name: item.shape for name, item in read_safetensors(path).tensors.items()} == {"a": (3,), "b": (1,), "none": (0,)}


# ---------------------------------------------------------------------------------------------------------------------
# Any small damage at all


def sound_gguf_file() -> bytes:
    entries = (
        entry(b"general.alignment", 4, U32(32)),
        entry(b"tokenizer.ggml.tokens", 9, U32(8) + U64(2) + string(b"a") + string(b"bc")),
        entry(b"scores", 9, U32(6) + U64(2) + bytes(8)),
        entry(b"nested", 9, nested(2)),
        entry(b"eps", 6, struct.pack("<f", 1e-5)),
        entry(b"flag", 7, b"\1"),
    )
    tensors = (tensor(), tensor(b"q", (32, 1), 8, 32))
    return gguf(*entries, tensors=tensors, data=FLOATS + bytes(2))


def sound_safetensors_file() -> bytes:
    return safetensors(two((0, 3), (3, 4)) | {"__metadata__": {"format": "pt"}}, bytes(4))


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, cut out, put in or exchanged for numbers that are dear to attackers."""
    mutable = bytearray(raw)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(mutable) + 1)
        match chance.randrange(5):
            case 0 if at < len(mutable):
                mutable[at] ^= 1 << chance.randrange(8)
            case 1:
                del mutable[at : at + chance.randint(1, 8)]
            case 2:
                mutable[at:at] = chance.randbytes(chance.randint(1, 8))
            case 3:
                number = chance.choice([0, 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1])
                mutable[at : at + 8] = struct.pack("<Q", number)
            case _ if chance.random() < 0.2:
                del mutable[at:]
    return bytes(mutable)


def use(file: Any) -> None:
    """All that is in a file can be looked at, once the file has been accepted."""
    for item in file.tensors.values():
        if item.encoding.startswith(("i", "u", "b")) and item.encoding not in ("iq4_nl", "iq4_xs", "bf16"):
            assert item.to_numpy().shape == item.shape
        else:
            assert item.to_float32().shape == item.shape


@pytest.mark.parametrize(("read", "sound"), [(read_gguf, sound_gguf_file), (read_safetensors, sound_safetensors_file)])
def test_damage_is_refused_or_harmless(tmp_path: Path, read: Read, sound: Callable[[], bytes]) -> None:
    path, raw = tmp_path / "x", sound()
    path.write_bytes(raw)
    use(read(path))
    chance = random.Random(0)
    outcomes = {"refused": 0, "read": 0}
    tracemalloc.start()
    try:
        for _ in range(800):
            path.write_bytes(damaged(raw, chance))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                use(read(path))
                outcomes["read"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
            assert tracemalloc.get_traced_memory()[1] - before < 1 << 18
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) >= 30, outcomes


@pytest.mark.parametrize(("read", "sound"), [(read_gguf, sound_gguf_file), (read_safetensors, sound_safetensors_file)])
def test_every_truncation_is_refused(tmp_path: Path, read: Read, sound: Callable[[], bytes]) -> None:
    raw = sound()
    assert np.frombuffer(raw, np.uint8).size < 1000
    for length in range(1, len(raw)):
        (tmp_path / "x").write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            read(tmp_path / "x")
