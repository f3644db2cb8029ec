"""The engine on a tiny model: an answer depends on nothing but its request."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
from asking import PROMPTS, alone, finished
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.engine.engine import Engine


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_batched_answers_equal_single_ones(model, engine, temperature):
    asked = [{"max_tokens": 5 + 3 * i, "temperature": temperature, "seed": i} for i in range(len(PROMPTS))]
    streams = [engine.submit(prompt, **one) for prompt, one in zip(PROMPTS, asked, strict=True)]
    for prompt, one, stream in zip(PROMPTS, asked, streams, strict=True):
        assert finished(stream)[0].token_ids == alone(model, prompt, **one)[0].token_ids


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_requests_and_cancellations_in_any_order(model, data):
    """Requests are submitted and cancelled at any time; the others get the answers that they get alone, and no memory leaks."""
    engine = Engine(model, most_together=data.draw(st.integers(1, 4)))
    prompts = data.draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=6))
    streams = []
    for number, prompt in enumerate(prompts):
        streams.append(engine.submit(prompt, max_tokens=8, temperature=1.0, seed=number))
        for _ in range(data.draw(st.integers(0, 3))):
            engine.step()
        if data.draw(st.booleans()) and number % 2:
            streams[data.draw(st.integers(0, number))].cancel()
    for number, (prompt, stream) in enumerate(zip(prompts, streams, strict=True)):
        got = finished(stream)[0]
        whole = alone(model, prompt, max_tokens=8, temperature=1.0, seed=number)[0]
        if got.finish_reason == "cancelled":
            assert got.token_ids == whole.token_ids[: len(got.token_ids)]
        else:
            assert got.token_ids == whole.token_ids
    assert engine.idle
    assert engine.counts.failed == 0


def test_several_answers_share_a_prompt(model, engine):
    results = finished(engine.submit("the loom", n=4, temperature=1.5, seed=3, max_tokens=10))
    assert len({tuple(result.token_ids) for result in results}) > 1
    again = finished(Engine(model, most_together=2).submit("the loom", n=4, temperature=1.5, seed=3, max_tokens=10))
    assert [result.token_ids for result in again] == [result.token_ids for result in results]
    greedy = finished(engine.submit("the loom", n=3, max_tokens=6))
    assert len({tuple(result.token_ids) for result in greedy}) == 1


def test_a_cancelled_answer_ends_within_a_step(engine):
    stream = engine.submit("the loom", max_tokens=40, ignore_end=True)
    other = engine.submit("a weft", max_tokens=40, ignore_end=True)
    for _ in range(3):
        engine.step()
    stream.cancel()
    engine.step()
    assert len(engine.running) == 1
    assert finished(stream)[0].finish_reason == "cancelled"
    assert len(finished(other)[0].token_ids) == 40


def test_a_stream_without_a_reference_is_cancelled(engine):
    engine.submit("the loom", max_tokens=40, ignore_end=True)
    finished(engine.submit("a weft", max_tokens=2))
    assert engine.counts.cancelled == 1


def test_a_long_prompt_does_not_stop_others(engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 8)
    monkeypatch.setattr("ordito.engine.engine.MIN_CHUNK", 1)
    talking = engine.submit("the loom", max_tokens=30, ignore_end=True)
    engine.step()
    reading = engine.submit("w " * 20, max_tokens=1)
    made = []
    while reading.box.left:
        engine.step()
        made.append(engine.running[0].made)
    assert len(made) > 2
    assert made == list(range(made[0], made[0] + len(made)))  # a token for each step
    finished(talking)


def test_prompts_are_read_in_chunks_of_about_a_second(model, monkeypatch):
    """At 40 tokens a second, which the first prompt shows."""
    read, step = [], model.runtime.step

    def slow(parts, *others):
        read.append(sum(len(ids) for _, ids in parts))
        return step(parts, *others)

    monkeypatch.setattr(model.runtime, "step", slow)
    monkeypatch.setattr("ordito.engine.engine.time", SimpleNamespace(perf_counter=lambda: sum(read) / 40))
    engine = Engine(model)
    for first in (1, 2):
        finished(engine.submit(replace(model.prepare("the", max_tokens=1), prompt=[first] + [5] * 59)))
    assert read == [60, 40, 20]


def test_users_take_turns(model):
    engine = Engine(model, most_together=1)
    streams = {
        (user, i): engine.submit("the loom", max_tokens=2, ignore_end=True, user=user) for user in "ab" for i in range(3)
    }
    order = []
    while not engine.idle:
        engine.step()
        order += [key for key, stream in streams.items() if not stream.box.left and key not in order]
    assert [user for user, _ in order] == list("ababab")


def test_threads_share_an_engine(model, engine):
    expected = {prompt: alone(model, prompt, max_tokens=10)[0].token_ids for prompt in PROMPTS}
    got = {}

    def ask(prompt):
        got[prompt] = finished(engine.submit(prompt, max_tokens=10))[0].token_ids

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == expected
