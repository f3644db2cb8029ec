"""What may be asked for, and that the runtime need give no more than that."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from asking import PROMPTS, finished

from ordito.engine.engine import Engine
from ordito.engine.grammar import Grammar
from ordito.engine.penalties import tokens_containing
from ordito.errors import ContextError, OrditoError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"n": 17}, "n is 17"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stop": [""]}, "stop is"),
        ({"min_tokens": True}, "min_tokens is True"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"logit_bias": {1: 500}}, "logit_bias of token 1 is 500"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
    ],
)
def test_settings_out_of_range_are_refused(engine, settings, message):
    with pytest.raises(OrditoError, match=message):
        engine.submit("the", **settings)


def test_a_prompt_without_tokens_is_refused(engine):
    with pytest.raises(OrditoError, match="the prompt has no tokens"):
        replace(engine.model.prepare("the"), prompt=[])


def test_a_prompt_too_long_says_both_numbers(engine):
    with pytest.raises(ContextError, match="context holds 64") as told:
        engine.submit("w " * 300)
    assert told.value.context == 64
    assert told.value.tokens == 301


def test_a_text_that_cannot_fit_is_not_tokenized(model, monkeypatch):
    def never(*arguments):
        raise AssertionError("this takes seconds")

    monkeypatch.setattr(model.tokenizer, "_cut", never)
    for prompt in ("loom " * 100_000, [{"role": "user", "content": "loom " * 100_000}]):
        with pytest.raises(ContextError, match="at least") as told:
            model.engine.submit(prompt)
        assert told.value.tokens > 10_000


@pytest.mark.parametrize("text", ["the loom " * 50, "<|im_end|>" * 9, " " * 300, "é漢" * 40, ""])
def test_the_least_number_of_tokens_is_a_lower_bound(model, text):
    for special in (False, True):
        assert model.tokenizer.least(text) <= len(model.tokenizer.encode(text, add_special_tokens=False, parse_special=special))


def test_no_end_before_min_tokens(engine):
    assert len(finished(engine.submit("the loom", min_tokens=20, max_tokens=30))[0].token_ids) >= 20


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_k": 3, "top_p": 0.7, "min_p": 0.1, "n": 2},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "top_k": 3, "top_n_sigma": 1.0},
        {"temperature": 1.0, "top_k": 3, "mirostat": 2},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 2.0},
        {"dry_multiplier": 2.0},
        {"logit_bias": {20: 5.0}},
        {"min_tokens": 4},
        {"logprobs": 2},
        {"prompt_logprobs": 2},
        {"grammar": Grammar("regex", r"[a-c]{3}-\d")},
    ],
    ids=lambda settings: "-".join(settings) or "greedy",
)
def test_a_runtime_may_give_no_more_than_was_asked_for(model, monkeypatch, settings):
    asked = {"max_tokens": 8, "seed": 1, "ignore_end": "min_tokens" not in settings} | settings

    def answers():
        engine = Engine(model)
        streams = [engine.submit(prompt, **one) for prompt in PROMPTS[:2] for one in (asked, asked | {"speculate": False})]
        return [[(one.tokens, one.prompt) for one in finished(stream)] for stream in streams]

    expected, step, given = answers(), model.runtime.step, []

    def no_more(parts, wanted, greatest=0):
        rows = step(parts, wanted).copy()
        given.append(greatest)
        for row in rows:
            if greatest:
                row[np.argsort(-row, kind="stable")[greatest:]] = -np.inf
        return rows

    monkeypatch.setattr(model.runtime, "step", no_more)
    assert answers() == expected
    of_few = {"top_k", "top_p", "min_p", "temperature", "n", "min_tokens", "prompt_logprobs"}
    greedy = settings.keys() <= {"min_tokens", "prompt_logprobs"}
    assert any(given) == (settings.keys() <= of_few and (greedy or "top_k" in settings))


def test_dry_breakers_are_all_tokens_that_contain_one(model):
    bytes_of = model.tokenizer.vocabulary.bytes_of
    for texts in (("o",), ("th", "a"), ("\n", ":"), ("nowhere else",)):
        found = frozenset(
            id for id in range(model.tokenizer.vocab_size) if any(text.encode() in bytes_of(id) for text in texts)
        )
        assert tokens_containing(model.tokenizer, texts) == found
