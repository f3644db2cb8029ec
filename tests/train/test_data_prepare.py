"""From files to rows: caching, warnings, streams, and resuming after a kill."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict

import forked
import pytest

from ordito.errors import OrditoError, OrditoWarning
from ordito.train.data import maker
from ordito.train.data.prepare import prepare
from ordito.train.data.shards import HEADER
from ordito.train.examples import Example, Text
from ordito.train.objective import Objective
from ordito.train.task import Task
from ordito.train.terms import next_token


def read(record):
    """One token per character, so that texts can be recognised."""
    if "text" not in record:
        raise OrditoError("has no text")
    return Example((Text.of([ord(character) for character in record["text"]]),))


TASK = Task(read, Objective.of(next_token()), packs=True)


def corpus(path, n=100, longest=20):
    records = [{"text": chr(1000 + i) * (2 + i * 7 % (longest - 1))} for i in range(n)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def prepared(source, folder, **settings):
    return prepare(
        [source],
        settings.pop("task", TASK),
        **{"length": 32, "folder": folder, "fingerprint": "f", "split_long": False} | settings,
    )


def texts(dataset, rows, steps):
    return [[[dataset[i].texts[0].ids.tolist() for i in row] for row in rows.rows(step)] for step in steps]


def test_from_files_to_rows(tmp_path):
    data = prepared(corpus(tmp_path / "a.jsonl"), tmp_path / "cache")
    rows = data.ordered(4, True, 0)
    seen = [text for step in texts(data, rows, range(rows.steps(1))) for row in step for text in row]
    assert sorted(map(tuple, seen)) == [tuple([1000 + i] * (2 + i * 7 % 19)) for i in range(100)]
    assert asdict(data.counts) == {
        "read": 100, "kept": 100, "cut": 0, "split": 0, "left_out": 0,
        "tokens": sum(map(len, seen)), "learned": sum(map(len, seen)) - 100,
    }  # fmt: skip
    assert len(data) == 100
    assert 0.9 < rows.utilisation <= 1
    assert rows[3].texts[0].ids.tolist() == data[3].texts[0].ids.tolist()


def test_unchanged_data_are_cached_and_changed_data_read_again(tmp_path):
    asked = []
    task = Task(lambda record: asked.append(record) or read(record), TASK.objective, packs=True)
    source, cache = corpus(tmp_path / "a.jsonl"), tmp_path / "cache"

    def times(**settings):
        asked.clear()
        prepared(source, cache, task=task, **settings)
        return len(asked)

    assert (times(), times()) == (100, 0)
    os.rename(source, source := str(tmp_path / "b.jsonl"))
    assert times() == 0
    for changed in ({"fingerprint": "another template"}, {"length": 40}, {"split_long": True}):
        assert (times(**changed), times(**changed)) == (100, 0)
    corpus(tmp_path / "b.jsonl", 99)
    assert (times(), times()) == (99, 0)


def test_errors_name_the_place_of_the_record(tmp_path):
    source = corpus(tmp_path / "a.jsonl", 3)
    with open(source, "a") as file:
        file.write('{"body": "x"}\n')
    for stream in (False, True):
        with pytest.raises(OrditoError, match=r"a\.jsonl:4: has no text"):
            prepared(source, tmp_path / "cache", stream=stream)


def test_data_without_learned_tokens_are_an_error(tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    (tmp_path / "single.jsonl").write_text('{"text": "x"}\n' * 5)
    for stream in (False, True):
        with pytest.raises(OrditoError, match=r"empty\.jsonl: holds no records"):
            prepared(str(empty), tmp_path / "cache", stream=stream)
        for _ in range(2):  # the second time there is a header
            with pytest.raises(OrditoError, match=r"single\.jsonl: of 5 records nothing is left to learn within 32 tokens"):
                prepared(str(tmp_path / "single.jsonl"), tmp_path / "cache", stream=stream)


def test_truncation_warns_every_time(tmp_path):
    source = corpus(tmp_path / "a.jsonl")
    for _ in range(2):
        with pytest.warns(OrditoWarning, match=r"\d+% of the examples are cut at 10 tokens"):
            prepared(source, tmp_path / "cache", length=10)
    data = prepared(source, tmp_path / "cache", length=10, split_long=True)
    assert data.counts.learned == prepared(source, tmp_path / "cache").counts.learned
    assert data.counts.split > 0


def test_progress_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(maker, "_REPORT_EVERY", 30)
    told = []
    prepared(corpus(tmp_path / "a.jsonl"), tmp_path / "cache", report=lambda counts: told.append(counts.read))
    assert told == [30, 60, 90]


def small_streams(monkeypatch, examples=16):
    monkeypatch.setattr("ordito.train.data.prepare.STREAMED_EXAMPLES", examples)


@pytest.mark.parametrize("pack", [False, True])
def test_a_stream_gives_every_example_once_per_pass(tmp_path, monkeypatch, pack):
    small_streams(monkeypatch)
    data = prepared(corpus(tmp_path / "a.jsonl"), tmp_path / "cache", stream=True)
    rows = data.ordered(1, pack, 0)
    assert len(list((tmp_path / "cache").glob("*/*.safetensors"))) == 1
    passes = []
    step = 0
    for _ in range(3):
        seen, order = set(), []
        while len(seen) < 100:
            (row,) = rows.rows(step)
            assert sum(len(data[i].texts[0]) for i in row) <= 32
            assert not seen & set(row)
            seen |= set(row)
            order.append(row)
            step += 1
        assert seen == set(range(100))
        passes.append(order)
    assert passes[0] != passes[1] != passes[2]
    assert data.counts.kept == 100
    with pytest.raises(OrditoError, match="set steps, or leave out stream"):
        rows.steps(1)


def test_steps_of_a_stream_have_batch_size_rows_in_any_order(tmp_path, monkeypatch):
    small_streams(monkeypatch)
    source = corpus(tmp_path / "a.jsonl")
    forward = prepared(source, tmp_path / "cache", stream=True).ordered(7, True, 3)
    found = [forward.rows(step) for step in range(20)]
    assert {len(rows) for rows in found} == {7}
    for step in (19, 0, 13, 13, 5):
        assert prepared(source, tmp_path / "cache", stream=True).ordered(7, True, 3).rows(step) == found[step]
        assert forward.rows(step) == found[step]
    assert prepared(source, tmp_path / "elsewhere", stream=True).ordered(7, True, 3).rows(17) == found[17]
    assert prepared(source, tmp_path / "cache", stream=True).ordered(7, True, 4).rows(0) != found[0]


def test_an_error_in_a_stream_is_raised_again(tmp_path, monkeypatch):
    small_streams(monkeypatch)
    source = corpus(tmp_path / "a.jsonl", 40)
    with open(source, "a") as file:
        file.write("{\n")
    rows = prepared(source, tmp_path / "cache", stream=True).ordered(4, False, 0)
    rows.rows(7)
    for _ in range(2):
        with pytest.raises(OrditoError, match=r"a\.jsonl:41: is no JSON"):
            rows.rows(8)


def test_two_readers_of_a_stream_get_the_same_rows(tmp_path, monkeypatch):
    """As processes of a run do: each makes the shards that it needs first, and continues after those of the other."""
    small_streams(monkeypatch)
    source = corpus(tmp_path / "a.jsonl")
    one, other, alone = (
        prepared(source, folder, stream=True) for folder in (tmp_path / "two", tmp_path / "two", tmp_path / "one")
    )
    rows = [data.ordered(3, False, 0) for data in (one, other, alone)]
    for step in range(60):  # a shard has 16 rows: the readers take turns at being first
        ahead, behind = (0, 1) if step % 2 else (1, 0)
        found = texts((one, other)[ahead], rows[ahead], [step])
        assert found == texts((one, other)[behind], rows[behind], [step]) == texts(alone, rows[2], [step])


def _until_killed(source, cache, stream, writing, reached):
    """Prepare data, and be killed in the middle of a record, or with half a file written."""
    whole = os.fsync

    def stop():
        reached.touch()
        time.sleep(60)

    def half(descriptor):
        if len(list(cache.glob("*/*.safetensors"))) == 3:
            os.ftruncate(descriptor, 100)
            stop()
        whole(descriptor)

    def slowly(record):
        if not writing and ord(record["text"][0]) == 1000 + 57:
            stop()
        return read(record)

    with pytest.MonkeyPatch.context() as patches:
        small_streams(patches)
        patches.setattr("ordito.train.data.prepare.MOST_EXAMPLES", 16)
        if writing:
            patches.setattr(os, "fsync", half)
        data = prepared(source, cache, task=Task(slowly, TASK.objective, packs=True), stream=stream)
        rows = data.ordered(4, False, 0)
        for step in range(100):
            rows.rows(step)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("writing", [False, True], ids=["reading", "writing"])
def test_rows_are_the_same_after_a_kill(tmp_path, monkeypatch, stream, writing):
    source, cache = corpus(tmp_path / "a.jsonl"), tmp_path / "cache"
    child = forked.start(_until_killed, source, cache, stream, writing, reached := tmp_path / "reached")
    while child.is_alive() and not reached.exists():
        time.sleep(0.002)
    child.kill()
    child.join()
    assert len(list(cache.glob("*/*.safetensors"))) == 3
    assert bool(list(cache.glob("*/.*.tmp"))) == writing
    assert not list(cache.glob(f"*/{HEADER}"))

    small_streams(monkeypatch)
    monkeypatch.setattr("ordito.train.data.prepare.MOST_EXAMPLES", 16)
    asked = []
    task = Task(lambda record: asked.append(record) or read(record), TASK.objective, packs=True)
    resumed, fresh = (prepared(source, folder, task=task, stream=stream) for folder in (cache, tmp_path / "fresh"))
    if not stream:
        assert len(asked) == 52 + 100  # finished shards are not made again
    a, b = (texts(data, data.ordered(4, True, 5), range(40)) for data in (resumed, fresh))
    assert a == b
    assert resumed.counts == fresh.counts
    assert not list(cache.glob("*/.*.tmp"))


def test_few_shards_are_in_memory_at_a_time(tmp_path, monkeypatch):
    small_streams(monkeypatch, 4)
    data = prepared(corpus(tmp_path / "a.jsonl"), tmp_path / "cache", stream=True)
    rows = data.ordered(4, False, 0)
    for step in range(100):
        rows.rows(step)
    assert data._shard.cache_info().currsize <= 3
    assert rows._rows_of.cache_info().currsize <= 3
