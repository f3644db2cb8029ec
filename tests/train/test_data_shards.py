"""Shards: written examples are read back, damage is detected and the file named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.errors import OrditoError
from ordito.train.data.shards import HEADER, Shards, ShardWriter, shard_path
from ordito.train.examples import Example, Text

TEXTS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=9)


def example(texts, label=float("nan")):
    return Example(tuple(Text.of([i for i, _ in text], [m for _, m in text]) for text in texts), label)


def write(folder, examples, most=3):
    writer = ShardWriter(folder, "print", most_examples=most)
    for each in examples:
        writer.add(each)
        if writer.full:
            writer.flush()
    writer.finish({"read": len(examples)})
    return folder


def assert_equal(a: Example, b: Example):
    assert np.array_equal(a.label, b.label, equal_nan=True)
    assert len(a.texts) == len(b.texts)
    for one, other in zip(a.texts, b.texts, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.learn.tolist() == other.learn.tolist()
        assert {n: x.tolist() for n, x in one.extra.items()} == {n: x.tolist() for n, x in other.extra.items()}
        assert {n: x.dtype for n, x in one.extra.items()} == {n: x.dtype for n, x in other.extra.items()}


@given(
    st.lists(st.tuples(st.lists(TEXTS, min_size=1, max_size=3), st.floats(allow_infinity=False)), max_size=12),
    st.integers(1, 4),
)
@settings(deadline=None, max_examples=40)
def test_written_shards_are_read_back(tmp_path_factory, given_examples, most):
    examples = [example(texts, label) for texts, label in given_examples]
    shards = Shards(write(tmp_path_factory.mktemp("shards"), examples, most))
    assert len(shards) == len(examples)
    assert shards.lengths.tolist() == [sum(map(len, each.texts)) for each in examples]
    assert shards.counts == {"read": len(examples)}
    for number, each in enumerate(examples):
        assert_equal(shards[number], each)


def test_extra_arrays(tmp_path):
    generator = np.random.default_rng(0)

    def extra(n):
        return {"top": generator.integers(0, 9, (n, 4)).astype(np.int32), "p": generator.random((n, 2, 3), np.float32)}

    examples = [Example((Text.of(list(range(n)), **extra(n)), Text.of([1], **extra(1)))) for n in (3, 5, 1, 4)]
    shards = Shards(write(tmp_path, examples))
    for number, each in enumerate(examples):
        assert_equal(shards[number], each)


def test_arrays_are_views_of_the_file(tmp_path):
    shards = Shards(write(tmp_path, [example([[(n, True)] * 5]) for n in range(4)]))
    ids = shards[1].texts[0].ids
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    assert np.shares_memory(ids, shards[1].texts[0].ids)


def test_every_changed_byte_is_detected(tmp_path):
    write(tmp_path, [example([[(n, True)] * 5]) for n in range(4)])
    path = shard_path(tmp_path, 1)
    whole = path.read_bytes()
    padding = {i for i, byte in enumerate(whole) if byte == 0x20}  # spaces between the header and the data
    for place in range(0, len(whole), 3):
        if place not in padding:
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            with pytest.raises(OrditoError, match=r"00001\.safetensors: is not what was written; delete the folder"):
                Shards(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 100, -1])
def test_a_truncated_shard_is_named(tmp_path, kept):
    write(tmp_path, [example([[(n, True)] * 5]) for n in range(4)])
    path = shard_path(tmp_path, 0)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(OrditoError, match=r"00000\.safetensors: is not what was written"):
        Shards(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    write(tmp_path, [example([[(n, True)] * 5]) for n in range(4)])
    shard_path(tmp_path, 1).unlink()
    with pytest.raises(OrditoError, match=r"00001\.safetensors"):
        Shards(tmp_path)


def test_a_shard_of_other_data_is_named(tmp_path):
    write(tmp_path, [example([[(1, True)] * 5])])
    other = ShardWriter(tmp_path, "another print")
    other.add(example([[(1, True)] * 5]))
    other.flush()
    with pytest.raises(OrditoError, match="belongs to other data"):
        Shards(tmp_path)


def test_a_folder_without_header_is_incomplete(tmp_path):
    writer = ShardWriter(tmp_path, "print")
    writer.add(example([[(1, True)] * 5]))
    writer.flush()
    with pytest.raises(OrditoError, match="its shards are not complete"):
        Shards(tmp_path)
    (tmp_path / HEADER).write_text('{"shards": ')
    with pytest.raises(OrditoError, match="is damaged"):
        Shards(tmp_path)
