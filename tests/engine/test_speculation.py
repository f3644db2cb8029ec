"""Guessed tokens make answers faster and change none."""

from __future__ import annotations

import pytest
from asking import alone, finished
from tiny_model import tiny_folder

import ordito
from ordito.engine.engine import Engine
from ordito.errors import OrditoError


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_speculative_decoding_changes_nothing(model, temperature):
    prompt = "warp weft loom " * 4
    asked = {"max_tokens": 24, "temperature": temperature, "seed": 5, "ignore_end": True, "logit_bias": {40: 20.0, 41: 19.0}}
    with_guesses = finished(Engine(model).submit(prompt, **asked))[0]
    without = alone(model, prompt, **asked)[0]
    assert with_guesses.drafted > 0 == without.drafted
    assert with_guesses.token_ids == without.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("same", [True, False])
def test_a_draft_model_changes_nothing(model, tmp_path, temperature, same):
    draft = model if same else ordito.load(tiny_folder(tmp_path, 64, seed=1))
    asked = {"max_tokens": 30, "temperature": temperature, "seed": 5, "ignore_end": True}
    got = finished(Engine(model, draft=draft).submit("the warp and the", **asked))[0]
    assert got.token_ids == alone(model, "the warp and the", **asked)[0].token_ids
    assert got.drafted > 0
    if same and not temperature:
        assert got.accepted == got.drafted


def test_a_draft_model_of_another_vocabulary_is_refused(model, tmp_path):
    other = ordito.load(tiny_folder(tmp_path, 64, text="something else entirely, with other words in it"))
    with pytest.raises(OrditoError, match="another vocabulary"):
        Engine(model, draft=other)
