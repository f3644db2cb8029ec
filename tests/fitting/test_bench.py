"""What bench feeds to a runtime, and the rates that it derives from the time."""

from __future__ import annotations

import numpy as np
import pytest

from ordito.accounting import account
from ordito.families import spec_from_config
from ordito.fitting import Machine
from ordito.fitting.bench import bench

CONFIG = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
SPEC = spec_from_config(CONFIG)
MACHINE = Machine(cores=1, memory=10**9, bandwidth=1e9, flops=1e9)


class Recording:
    """A runtime that computes nothing."""

    spec, spared = SPEC, 0

    def __init__(self):
        self.length, self.fed, self.rewound = 0, [], []

    def session(self, source=None):
        return self

    def feed(self, ids, greatest=0):
        assert all(0 <= id < SPEC.vocab_size for id in ids)
        self.length += len(ids)
        self.fed.append(list(ids))
        return np.arange(SPEC.vocab_size) == self.length  # the next token is the number of tokens so far

    def rewind(self, length):
        self.rewound.append(self.length)
        self.length = length


def test_tests_are_those_of_llama_bench():
    runtime = Recording()
    figures = list(bench(runtime, account(SPEC), MACHINE, prompts=(8, 4), generated=(3,), depths=(0, 16), repetitions=2))
    names = ["pp8", "pp4", "tg3", "pp8 @ d16", "pp4 @ d16", "tg3 @ d16"]
    assert [figure.test for figure in figures] == names
    assert all(len(figure.rates) == 2 for figure in figures)
    lengths = [len(ids) for ids in runtime.fed]
    assert lengths[:9] == [8, 8, 8, 4, 4, 4, 1, 1, 1]
    assert 16 in lengths
    assert runtime.fed[7:9] == [[1], [2]]  # an answer is what the model finds most probable
    assert runtime.rewound[-1] == 19


def test_an_answer_begins_with_a_token_of_the_vocabulary():
    runtime, few = Recording(), spec_from_config(CONFIG | {"vocab_size": 10})
    list(bench(runtime, account(few), MACHINE, prompts=(), generated=(1,), repetitions=1))
    assert runtime.fed[0] == [3]


def test_weights_that_decoding_skips_are_not_counted():
    runtime, found = Recording(), account(SPEC)
    runtime.spared = 1000
    (figure,) = bench(runtime, found, MACHINE, prompts=(), generated=(2,), repetitions=1)
    assert figure.bytes_per_token == found.read(1) - 1000
    assert figure.limit > 1 / (found.read(1) / 1e9)


def test_bytes_and_limits():
    found = account(SPEC)
    (figure,) = bench(Recording(), found, MACHINE, prompts=(), generated=(2,), repetitions=1)
    assert figure.bytes_per_token == found.read(1)
    assert figure.limit == pytest.approx(1 / max(found.read(1) / 1e9, found.flops.decode(1).total / 1e9))
    assert figure.to_dict()["percent_of_limit"] == pytest.approx(100 * figure.mean / figure.limit)
    assert figure.deviation == 0.0
