"""The probabilities of tokens, of prompts as of answers."""

from __future__ import annotations

import numpy as np
import pytest
from asking import finished


def test_logprobs_are_those_of_the_logits(model, engine):
    result = finished(engine.submit("the loom", max_tokens=4, logprobs=3, prompt_logprobs=2, ignore_end=True))[0]
    ids = [*result.prompt_ids, *result.token_ids]
    logits = model.logits(ids[:-1]).astype(np.float64)
    logs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    tokens = [*result.prompt, *result.tokens]
    assert [token.id for token in tokens] == ids
    assert tokens[0].logprob is None
    for row, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(logs[row, token.id], abs=1e-4)
        assert token.top[0][1] == pytest.approx(logs[row].max(), abs=1e-4)
    assert len(result.tokens[0].top) == 3
    assert len(result.prompt[1].top) == 2


def test_scoring_several_times_ends_as_often(engine):
    stream = engine.submit("the warp and the weft", max_tokens=0, prompt_logprobs=1, n=2)
    for _ in range(100):
        if not engine.step():
            break
    first, second = finished(stream)
    assert first.finish_reason == second.finish_reason == "length"
    assert first.token_ids == second.token_ids == []


def test_the_first_delta_brings_the_prompt(engine):
    deltas = list(engine.submit("the warp and the weft", max_tokens=4, ignore_end=True, prompt_logprobs=1, n=3).deltas())
    assert deltas[0].prompt
    assert not any(delta.prompt for delta in deltas[1:])


def test_scoring_makes_no_token(engine):
    result = finished(engine.submit("the loom", max_tokens=0, prompt_logprobs=0))[0]
    assert result.token_ids == []
    assert len(result.prompt) == result.prompt_tokens
