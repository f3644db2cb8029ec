"""Files that were damaged at random: they parse, or raise our error; nothing else, and nothing large."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import CheckpointError

FUZZ = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A small sound file of each format, and its reader."""
    folder = tmp_path_factory.mktemp("sound")
    tensors = {"a": np.arange(64, dtype=np.float32).reshape(2, 32), "b": np.ones(8, np.float16)}
    write_safetensors(folder / "x.safetensors", tensors, {"format": "pt"})
    writer = gguf.GGUFWriter(folder / "x.gguf", "llama")
    writer.add_array("words", ["one", "two"])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_tensor(
        "a", gguf.quants.quantize(tensors["a"], gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0
    )
    writer.add_tensor("b", tensors["a"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {".safetensors": (folder / "x.safetensors").read_bytes(), ".gguf": (folder / "x.gguf").read_bytes()}


READERS = {".safetensors": read_safetensors, ".gguf": read_gguf}
numbers = st.sampled_from([0, 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
damage = st.one_of(
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("number"), st.floats(0, 1), numbers),
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("insert"), st.floats(0, 1), st.integers(0, 255)),
)


@FUZZ
@given(suffix=st.sampled_from(sorted(READERS)), damages=st.lists(damage, min_size=1, max_size=4))
def test_damage_is_noticed_or_harmless(sound, tmp_path, suffix, damages):
    data = bytearray(sound[suffix])
    for kind, place, value in damages:
        at = int(place * max(len(data) - 1, 0))
        if kind == "byte" and data:
            data[at] = value
        elif kind == "number":
            data[at : at + 8] = struct.pack("<Q", value)
        elif kind == "cut":
            del data[at:]
        else:
            data[at:at] = bytes([value]) * 3
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for tensor in READERS[suffix](path).tensors.values():
            if tensor.encoding[0] not in "iub" or tensor.encoding.startswith(("bf", "iq")):
                assert tensor.to_float32().shape == tensor.shape
    except CheckpointError as error:
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4_000_000


def safetensors(header, data=b"\0" * 16):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin=0, end=16, shape=(4,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HOSTILE = {
    "nothing": (b"", "empty"),
    "a header beyond the file": (struct.pack("<Q", 2**60) + b"{}", "header"),
    "no brace": (safetensors(b" {}"), "brace"),
    "no JSON": (safetensors(b"{"), "JSON"),
    "deep JSON": (safetensors(b'{"a":' * 100_000), "nested|JSON"),
    "two equal names": (safetensors(b'{"a":1,"a":2}'), "JSON|twice"),
    "NaN": (safetensors(b'{"a":NaN}'), "JSON"),
    "offsets reversed": (safetensors({"a": entry(16, 0)}), "apart"),
    "beyond the data": (safetensors({"a": entry(0, 4096, (1024,))}), "ends at byte"),
    "a shape that does not fit": (safetensors({"a": entry(shape=(5,))}), "apart"),
    "negative sizes": (safetensors({"a": entry(shape=(-4,))}), "at least 0"),
    "sizes that are true": (safetensors({"a": entry(shape=(True, 4))}), "integers"),
    "sizes with a point": (safetensors({"a": entry(shape=(4.0,))}), "integers"),
    "a product that overflows": (safetensors({"a": entry(shape=(2**40, 2**40))}), "product"),
    "many dimensions": (safetensors({"a": entry(shape=(1,) * 99)}), "at most"),
    "unknown type": (safetensors({"a": entry(dtype="F31")}), "dtype"),
    "overlap": (safetensors({"a": entry(), "b": entry()}), "overlaps"),
    "a hole": (safetensors({"a": entry(8, 16, (2,))}), "hole"),
    "data that nobody has": (safetensors({"a": entry(0, 8, (2,))}), "bytes of data"),
    "metadata that is no text": (safetensors({"__metadata__": {"a": 1}}, b""), "strings"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_safetensors_are_refused(tmp_path, case):
    data, message = HOSTILE[case]
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=message) as error:
        read_safetensors(tmp_path / "x.safetensors")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", sorted(READERS))
def test_what_is_no_file_is_refused(tmp_path, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    os.mkfifo(tmp_path / f"pipe{suffix}")
    for name in ("folder", "pipe", "absent"):
        with pytest.raises(CheckpointError):
            READERS[suffix](tmp_path / f"{name}{suffix}")
