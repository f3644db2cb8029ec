"""The steps of sampling beyond the basic ones, each against its definition or transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.engine import cuts
from ordito.engine.penalties import add_biases, penalise_dry, penalise_presence_and_frequency
from ordito.engine.sampling import Sampler, Sampling, candidates
from ordito.errors import OrditoError

V = 60


def logits(seed, scale=3.0, size=V):
    return (np.random.default_rng(seed).normal(size=size) * scale).astype(np.float32)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 500), p=st.sampled_from([0.1, 0.5, 0.9]), temperature=st.floats(0.3, 2))
def test_typical_is_that_of_transformers(seed, p, temperature):
    scores = torch.tensor(logits(seed))[None] / temperature
    expected = transformers.TypicalLogitsWarper(p)(None, scores).softmax(-1)[0].numpy()
    kept, probabilities = candidates(logits(seed), Sampling(temperature=temperature, typical_p=p))
    got = np.zeros(V)
    got[kept] = probabilities
    assert ((got > 0) == (expected > 0)).all()
    assert np.abs(got - expected).max() <= 1e-5


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 500), p=st.floats(0.05, 0.999))
def test_top_p_is_the_same_on_candidates_and_on_all_logits(seed, p):
    large = logits(seed, 2.0, 5000)
    kept, probabilities = candidates(large, Sampling(temperature=1.0, top_p=p))
    order, whole = cuts.ordered(large.astype(np.float64))
    expected = order[cuts.nucleus(whole, p)]
    assert kept.tolist() == expected.tolist()
    assert probabilities.sum() == pytest.approx(1)


def test_top_n_sigma_keeps_what_is_near_the_best():
    values = logits(1)
    kept, _ = candidates(values, Sampling(temperature=2.0, top_n_sigma=1.0))
    assert set(kept) == set(np.flatnonzero(values >= values.max() - values.astype(np.float64).std()))


def test_xtc_keeps_the_least_probable_token_above_the_threshold():
    probabilities = np.array([0.4, 0.3, 0.2, 0.1])
    assert cuts.xtc(probabilities, 0.2).tolist() == [False, False, True, True]
    assert cuts.xtc(probabilities, 0.35).all()
    sampler = Sampler(Sampling(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.1, seed=0))
    values = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    assert {sampler.choose(values, []) for _ in range(200)} == {2, 3}


def test_mirostat_reaches_its_target_surprise():
    rng = np.random.default_rng(0)
    for version in (1, 2):
        sampler = Sampler(Sampling(temperature=1.0, mirostat=version, mirostat_tau=7.0, mirostat_eta=0.1, seed=1))
        surprises = []
        for _ in range(1500):
            values = (rng.normal(size=2000) * 2.0).astype(np.float32)
            token = sampler.choose(values, [])
            surprises.append(-np.log2(cuts.softmax(values.astype(np.float64))[token]))
        assert abs(np.mean(surprises[300:]) - 7.0) < 0.3


def test_dry_penalises_the_continuation_of_a_repetition():
    values = np.zeros(V, np.float32)
    context = [1, 2, 3, 4, 9, 1, 2, 3]
    got = penalise_dry(values, context, 0.8, 1.75, 2, frozenset())
    assert got[4] == pytest.approx(-0.8 * 1.75 ** (3 - 2))
    assert np.count_nonzero(got) == 1
    assert penalise_dry(values, context, 0.8, 1.75, 4, frozenset()).any() == False  # noqa: E712
    assert not penalise_dry(values, context, 0.8, 1.75, 2, frozenset({3})).any()
    assert penalise_dry(values, context, 0.8, 1.75, 2, frozenset({1}))[4] == pytest.approx(-0.8)
    assert not values.any()


@settings(deadline=None, max_examples=80)
@given(context=st.lists(st.integers(0, 3), min_size=0, max_size=30), allowed=st.integers(1, 4))
def test_dry_is_its_definition(context, allowed):
    got = penalise_dry(np.zeros(5, np.float32), context, 1.0, 2.0, allowed, frozenset())
    for token in range(5):
        longest = 0
        for place in range(1, len(context)):
            if context[place] == token:
                length = 0
                while length < place and context[place - 1 - length] == context[len(context) - 1 - length]:
                    length += 1
                longest = max(longest, min(length, 64))
        expected = -min(2.0 ** (longest - allowed), 1e4) if longest >= allowed else 0.0
        assert got[token] == pytest.approx(expected)


def test_penalties_count_the_answer_only():
    sampler = Sampler(Sampling(presence_penalty=1.0, frequency_penalty=0.5))
    adjusted = sampler.adjusted(np.zeros(V, np.float32), [7, 7, 7, 5, 5, 6], made=3)
    assert adjusted[7] == 0.0
    assert adjusted[5] == -2.0
    assert adjusted[6] == -1.5
    assert penalise_presence_and_frequency(np.zeros(V, np.float32), [1], 0.0, 2.0)[1] == -2.0


def test_biases_add_and_forbid():
    got = add_biases(np.zeros(4, np.float32), {1: 2.5, 2: -100, 9: 1.0})
    assert got.tolist() == [0.0, 2.5, -np.inf, 0.0]


def test_the_repetition_penalty_looks_back_as_far_as_it_is_told():
    values = np.array([2.0, 1.9, 1.0], np.float32)
    assert Sampler(Sampling(repetition_penalty=1.5)).choose(values, [0, 1, 2]) == 0
    assert Sampler(Sampling(repetition_penalty=1.5)).choose(values, [0, 0]) == 1
    assert Sampler(Sampling(repetition_penalty=1.5, repetition_window=1)).choose(values, [0, 1]) == 0


@pytest.mark.parametrize("wrong", [{"mirostat": 3}, {"dry_base": 0.5}, {"xtc_probability": 2}, {"dry_breakers": "abc"}])
def test_settings_out_of_range(wrong):
    with pytest.raises(OrditoError, match=next(iter(wrong))):
        Sampling(**wrong)
