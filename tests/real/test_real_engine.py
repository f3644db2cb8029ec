"""The engine's laws on real models: SmolLM2, and Gemma 3 with its windows."""

from __future__ import annotations

import numpy as np
import pytest

import ordito
from ordito.engine.engine import Engine

STORY = "The weaver said: warp and weft, warp and weft, and the loom answered: weft and warp. " * 60


@pytest.fixture(scope="module", params=["smollm2", "gemma3-270m"])
def model(request):
    return ordito.load(request.param)


def answers(engine, prompts, **settings):
    streams = [engine.submit(prompt, max_tokens=24, ignore_end=True, **settings) for prompt in prompts]
    for stream in streams:
        for _ in stream:
            pass
    return [stream.result for stream in streams]


def test_alone_together_cached_and_guessed_are_the_same(model):
    prompts = [STORY[: 300 * number] + f" And then {number}" for number in (1, 3, 9, 16)]
    alone = [answers(Engine(model), [prompt], speculate=False)[0].token_ids for prompt in prompts]
    engine = Engine(model)
    together = answers(engine, prompts)
    assert [one.token_ids for one in together] == alone
    assert sum(one.accepted for one in together) > 0
    again = answers(engine, prompts)
    assert [one.token_ids for one in again] == alone
    assert all(one.cached_tokens == one.prompt_tokens - 1 for one in again)
    drawn = {"temperature": 0.9, "seed": 3}
    one = answers(Engine(model), prompts[2:3], speculate=False, **drawn)[0]
    assert answers(engine, prompts, **drawn)[2].token_ids == one.token_ids


def test_a_prompt_that_goes_another_way_is_shared_up_to_there(model):
    engine = Engine(model)
    answers(engine, [STORY + "The first end"])
    (other,) = answers(engine, [STORY + "Quite another end of it"])
    assert other.cached_tokens > 0.6 * other.prompt_tokens  # windows can be taken up only where a piece of the prompt ended
    assert other.token_ids == answers(Engine(model), [STORY + "Quite another end of it"])[0].token_ids


@pytest.mark.parametrize("greatest", [1, 40])
def test_the_greatest_logits_are_those_of_the_whole_head(model, greatest):
    whole, some, read = model.runtime.session(), model.runtime.session(), []
    for id in model.tokenizer.encode(
        "The weaver said: warp and weft, warp and weft, and the loom answered: you may go home now."
    ):
        expected, found = whole.feed([id]), some.feed([id], greatest)
        there = np.isfinite(found)
        assert np.array_equal(found[there], expected[there])
        assert np.array_equal(np.sort(found)[-greatest:], np.sort(expected)[-greatest:])
        read.append(there.mean())
    assert np.median(read) < (0.05 if greatest == 1 else 0.9)
