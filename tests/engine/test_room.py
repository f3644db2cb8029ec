"""What the engine does with little memory, and that it gives all of it back."""

from __future__ import annotations

from asking import PROMPTS, alone, finished

import ordito
from ordito.engine.engine import Engine


def test_a_preempted_answer_is_computed_again(folder):
    model = ordito.load(folder, backend="native")
    base = model.runtime.cache_bytes()
    engine = Engine(model, cache_limit=base + 40_000)
    asked = [{"max_tokens": 40, "ignore_end": True, "temperature": 1.0, "seed": i} for i in range(6)]
    streams = [engine.submit("the loom", **one) for one in asked]
    got = [finished(stream)[0] for stream in streams]
    assert engine.counts.preempted > 0
    assert [one.token_ids for one in got] == [alone(model, "the loom", **one)[0].token_ids for one in asked]


def test_what_is_kept_for_later_prompts_stays_within_the_limit(folder):
    model = ordito.load(folder, backend="native")
    base = model.runtime.cache_bytes()
    engine, sizes = Engine(model, cache_limit=base + 40_000), []
    for prompt in PROMPTS:
        finished(engine.submit(prompt, max_tokens=40, ignore_end=True))
        sizes.append(model.runtime.cache_bytes() - base)
    assert 0 < max(sizes) <= 40_000 + sizes[0]


def test_answers_without_room_wait(folder):
    model = ordito.load(folder, backend="native")
    engine = Engine(model, cache_limit=model.runtime.cache_bytes() + 120_000)
    streams = [engine.submit(f"{i}{'the loom ' * 20}", max_tokens=40, ignore_end=True) for i in range(12)]
    for stream in streams:
        finished(stream)
    assert 0 < engine.counts.preempted < 30  # 108 when admission did not count what running answers have yet to allocate


def test_every_block_is_free_at_the_end(folder):
    model = ordito.load(folder, backend="native")
    before = model.runtime.cache_bytes()
    engine = Engine(model)
    streams = [engine.submit(prompt, max_tokens=8, n=2) for prompt in PROMPTS]
    streams[2].cancel()
    for stream in streams:
        finished(stream)
    assert model.runtime.cache_bytes() > before
    engine.close()
    assert model.runtime.cache_bytes() == before
