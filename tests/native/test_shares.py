"""Batches in shares: every token once and in order, the wanted rows in order, and the results of one whole batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.native.runtime import NativeRuntime
from ordito.native.shares import shares, tokens_together

MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
}


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_shares_hold_each_token_once_and_in_order(lengths, most, data):
    parts = [(number, [(number, i) for i in range(length)]) for number, length in enumerate(lengths)]
    tokens = [token for _, ids in parts for token in ids]
    wanted = data.draw(st.lists(st.sampled_from(range(len(tokens))), unique=True).map(sorted) if tokens else st.just([]))
    read, found = [], []
    for some, rows in shares(parts, wanted, most):
        these = [token for _, ids in some for token in ids]
        assert len(these) <= most
        assert len({number for number, _ in some}) == len(some)
        found += [these[row] for row in rows]
        read += these
    assert read == tokens
    assert found == [tokens[row] for row in wanted]


@pytest.mark.parametrize("share_tokens", [1, 4, 7, 32])
@pytest.mark.parametrize("wanted", [[], [0], [29], list(range(30)), [3, 29, 0, 12, 4]])
def test_shares_give_the_results_of_one_batch(folder, share_tokens, wanted):
    runtime = NativeRuntime(open_checkpoint(folder), threads=2)
    texts = [list(range(5, 5 + n)) for n in (13, 1, 11, 5)]

    def read(some):
        runtime.share_tokens = some
        sequences = [runtime.sequence() for _ in texts]
        logits = runtime.step(list(zip(sequences, texts, strict=True)), wanted)
        return logits, runtime.step([(sequence, [9]) for sequence in sequences], range(4))

    for got, expected in zip(read(share_tokens), read(1000), strict=True):
        assert np.array_equal(got, expected)


def test_a_failure_in_a_later_share_leaves_the_sequence_as_it_was(folder):
    runtime = NativeRuntime(open_checkpoint(folder), threads=2)
    runtime.share_tokens = 4
    sequence = runtime.sequence()
    before = runtime.step([(sequence, [5, 6])], [1])
    for wrong in (-1, runtime.spec.vocab_size):
        with pytest.raises(OrditoError, match=f"token id {wrong} is not in the vocabulary, expected 0 to"):
            runtime.step([(sequence, [7, 8, 9, 10, 11, wrong])], [5])
    assert sequence.length == 2
    sequence.rewind(1)
    assert np.array_equal(runtime.step([(sequence, [6])], [0]), before)


def test_shares_of_mixtures_of_experts_are_larger():
    mixtral = spec_from_config(MIXTRAL)
    assert tokens_together(mixtral) == 256
    assert tokens_together(spec_from_config({**MIXTRAL, "num_experts_per_tok": 1})) == 512
    dense = spec_from_config({key: value for key, value in MIXTRAL.items() if "expert" not in key} | {"model_type": "mistral"})
    assert tokens_together(dense) == 128
