"""Importance matrices: written and read again, in both formats, and hostile ones."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.checkpoint.gguf_write import Planned, write_gguf
from ordito.checkpoint.importance import Importance, read_importance, write_importance
from ordito.errors import CheckpointError, OrditoError


def some():
    random = np.random.default_rng(0)
    sums = {"blk.0.attn_q.weight": random.uniform(size=(1, 64)), "blk.0.ffn_up_exps.weight": random.uniform(size=(3, 64))}
    counts = {"blk.0.attn_q.weight": np.array([512.0]), "blk.0.ffn_up_exps.weight": np.array([100.0, 0.0, 412.0])}
    return Importance(
        {name: array.astype(np.float32) for name, array in sums.items()},
        {name: array.astype(np.float32) for name, array in counts.items()},
        ("book.txt",),
        1,
        512,
    )


def dat(entries, tail=b""):
    parts = [struct.pack("<i", len(entries))]
    for name, calls, values in entries:
        parts += [struct.pack("<i", len(name)), name, struct.pack("<ii", calls, len(values)), np.array(values, "<f4").tobytes()]
    return b"".join(parts) + tail


def test_round_trip(tmp_path):
    write_importance(tmp_path / "x.gguf", some())
    back = read_importance(tmp_path / "x.gguf")
    assert (back.datasets, back.windows, back.context, back.file) == (("book.txt",), 1, 512, "x.gguf")
    for name, sums in some().sums.items():
        assert np.array_equal(back.sums[name], sums)
        assert np.array_equal(back.counts[name], some().counts[name])
    mean = back.of("blk.0.ffn_up_exps.weight")
    assert mean[0] == pytest.approx(some().sums["blk.0.ffn_up_exps.weight"][0] / 100)
    assert (mean[1] == 1).all()  # an expert that nobody chose
    assert back.of("blk.9.attn_q.weight") is None


def test_the_file_is_as_llama_cpp_writes_it(tmp_path):
    write_importance(tmp_path / "x.gguf", some())
    file = GGUFReader(tmp_path / "x.gguf")
    assert file.fields["general.type"].contents() == "imatrix"
    assert file.fields["imatrix.chunk_size"].contents() == 512
    tensors = {tensor.name: tensor for tensor in file.tensors}
    assert tensors["blk.0.ffn_up_exps.weight.in_sum2"].shape.tolist() == [64, 3]
    assert tensors["blk.0.ffn_up_exps.weight.counts"].shape.tolist() == [1, 3]


def test_the_older_format(tmp_path):
    path = tmp_path / "x.dat"
    path.write_bytes(dat([(b"blk.0.attn_q.weight", 4, [4.0, 8.0])], struct.pack("<ii", 9, 4) + b"wiki"))
    found = read_importance(path)
    assert found.of("blk.0.attn_q.weight").tolist() == [[1.0, 2.0]]
    assert (found.datasets, found.windows) == (("wiki",), 9)


def test_files_that_are_no_importance_matrix_are_refused(tmp_path):
    path = tmp_path / "x"
    for data, message in (
        (b"", "empty"),
        (b"hello, this is no matrix", "is no importance matrix"),
        (dat([(b"w", 1, [1.0])])[:-2], "ends inside the values"),
        (dat([(b"w", 1, [np.nan])]), "not all finite"),
        (dat([(b"w", 1, [-1.0])]), "not all finite and positive"),
        (dat([]), "holds no importances"),
        (struct.pack("<iii", 1, 2**30, 0), "expected 0 to"),
    ):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            read_importance(path)
    write_gguf(path, {"general.architecture": "llama"}, [], [])
    with pytest.raises(CheckpointError, match="without an importance matrix"):
        read_importance(path)
    write_gguf(
        path, {"general.type": "imatrix"}, [Planned("w.in_sum2", (1, 4), "f32")], [("w.in_sum2", np.ones((1, 4), np.float32))]
    )
    with pytest.raises(CheckpointError, match="not its counts"):
        read_importance(path)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_files_raise_our_errors_only(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    write_importance(folder / "x.gguf", some())
    whole = data.draw(st.sampled_from([(folder / "x.gguf").read_bytes(), dat([(b"w", 4, [4.0, 8.0]), (b"v", 1, [1.0])])]))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    (folder / "y").write_bytes(broken[: data.draw(st.integers(1, len(broken)))])
    with suppress(OrditoError):
        read_importance(folder / "y")
