from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.engine.penalties import penalise_repetition
from ordito.engine.sampling import Sampler, Sampling, candidates
from ordito.errors import OrditoError

V = 50


def logits(seed):
    return np.random.default_rng(seed).normal(size=V).astype(np.float32) * 3


def theirs(seed, context, sampling):
    """Probabilities after transformers' own chain of processors."""
    scores, ids = torch.tensor(logits(seed))[None], torch.tensor([context])
    chain = []
    if sampling.repetition_penalty != 1:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    chain.append(transformers.TemperatureLogitsWarper(float(sampling.temperature)))
    if sampling.top_k:
        chain.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        chain.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0:
        chain.append(transformers.MinPLogitsWarper(sampling.min_p))
    for step in chain:
        scores = step(ids, scores)
    return scores.softmax(dim=-1)[0].numpy()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 1000),
    context=st.lists(st.integers(0, V - 1), min_size=1, max_size=8),
    temperature=st.floats(0.2, 3),
    top_k=st.sampled_from([0, 1, 5, V, 2 * V]),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    penalty=st.sampled_from([0.8, 1.0, 1.3]),
)
def test_probabilities_are_those_of_transformers(seed, context, temperature, top_k, top_p, min_p, penalty):
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    kept, probabilities = candidates(penalise_repetition(logits(seed), context, penalty), sampling)
    got = np.zeros(V)
    got[kept] = probabilities
    expected = theirs(seed, context, sampling)
    assert ((got > 0) == (expected > 0)).all()
    assert np.abs(got - expected).max() <= 1e-5


def test_the_chain_is_the_distribution():
    sampling = Sampling(temperature=0.9, top_k=6, seed=3)
    kept, probabilities = candidates(logits(1), sampling)
    sampler = Sampler(sampling)
    drawn = np.bincount([sampler.choose(logits(1), []) for _ in range(20_000)], minlength=V)[kept] / 20_000
    assert np.abs(drawn - probabilities).max() <= 0.015


def test_temperature_zero_takes_the_best_and_touches_nothing():
    values = logits(4)
    before = values.copy()
    assert Sampler(Sampling()).choose(values, [1, 2]) == int(values.argmax())
    Sampler(Sampling(repetition_penalty=1.5, temperature=1.0, seed=0)).choose(values, [int(values.argmax())])
    assert np.array_equal(values, before)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9}, {"mirostat": 2}])
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_nan_logits_are_an_error(settings, damage):
    values = logits(4)
    values[7] = damage
    with pytest.raises(OrditoError, match="no numbers: its weights are damaged"):
        Sampler(Sampling(**settings, seed=0)).choose(values, [1])
    with pytest.raises(OrditoError, match="no numbers"):
        Sampler(Sampling(**settings, seed=0)).choose(np.full(V, -np.inf, np.float32), [1])


def test_a_tiny_temperature_is_greedy():
    for temperature in (1e-13, 1e-308, 5e-324):
        assert Sampler(Sampling(temperature=temperature, seed=0)).choose(logits(4), []) == int(logits(4).argmax())


def test_the_repetition_penalty_changes_the_most_probable_token():
    values = np.array([3.0, 2.9, -1.0], dtype=np.float32)
    assert Sampler(Sampling(repetition_penalty=1.1)).choose(values, [0]) == 1
    assert penalise_repetition(values, [2], 2.0)[2] == -2.0


def test_seeds_repeat():
    def run(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed))
        return [sampler.choose(logits(i), []) for i in range(20)]

    assert run(5) == run(5)
    assert run(5) != run(6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("repetition_penalty", 0),
        ("seed", -1),
        ("seed", 0.5),
    ],
)
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(OrditoError, match=name):
        Sampling(**{name: value})
