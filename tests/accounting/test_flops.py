"""FLOPs of attention: the pairs of query and key that are counted are those that the masks of PyTorch let through."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ordito import catalogue
from ordito.accounting import Flops, account
from ordito.accounting import flops as flops_module
from ordito.accounting.flops import visible
from ordito.families import spec_from_config
from ordito.nn.step import Step
from ordito.spec import Attention, BlockSparse

TINY = {"model_type": "llama", "vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
TINY |= {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}


def shown(block: Attention, tokens: int, past: int) -> int:
    """Pairs of query and key that the mask lets through, over all heads."""
    positions = torch.arange(past + tokens)[None]
    mask = Step(positions[:, past:], positions, past + tokens, torch.float32).visible(block)
    return int(mask.expand(1, block.n_heads, -1, -1).sum())


sizes = st.one_of(st.none(), st.integers(1, 40))


@given(
    tokens=st.integers(1, 40),
    past=st.integers(0, 40),
    window=sizes,
    chunk=sizes,
    causal=st.booleans(),
    sparse=st.one_of(
        st.none(), st.builds(BlockSparse, block=st.integers(1, 7), local=st.integers(1, 4), stride=st.integers(1, 5))
    ),
)
def test_pairs_are_those_of_the_mask(tokens, past, window, chunk, causal, sparse):
    if not causal:
        past, chunk, sparse = 0, None, None
    if sparse:
        window = chunk = None
    block = Attention(
        d_model=8,
        n_heads=4,
        n_kv_heads=2,
        head_dim=2,
        scale=1.0,
        window=window,
        chunk=chunk,
        causal=causal,
        block_sparse=sparse,
    )
    assert visible(block, tokens, past) == shown(block, tokens, past)


def test_the_longest_texts_are_counted_without_looking_at_each_token():
    both_ways = Attention(d_model=8, n_heads=4, n_kv_heads=2, head_dim=2, scale=1.0, causal=False)
    assert visible(both_ways, 10**12, 0) == 4 * 10**24


def test_blocks_of_layers_that_are_alike_are_counted_once(monkeypatch):
    counted = []
    monkeypatch.setattr(flops_module, "in_blocks", lambda sparse, head, length: counted.append(head) or 0)
    flops_module.seen.cache_clear()
    Flops(spec_from_config(catalogue.find("phi-3-small-8k").config)).decode(1000)
    flops_module.seen.cache_clear()  # drop the counts of the patched function
    assert sorted(counted) == sorted(2 * list(range(32)))


def test_prefill_is_the_sum_of_single_tokens():
    flops = Flops(spec_from_config(TINY | {"sliding_window": 5, "model_type": "mistral"}))
    steps = [flops.decode(context).total for context in range(1, 21)]
    assert flops.forward(20).total == sum(steps)
    assert flops.forward(20).total == flops.forward(12).total + flops.forward(8, past=12).total


def test_prefill_computes_logits_once():
    flops = Flops(spec_from_config(TINY))
    assert flops.forward(20).total - flops.prefill(20).total == 19 * 2 * 96 * 16


@pytest.mark.parametrize("past", [0, 1, 100, 5000])
def test_latents_take_the_cheaper_form(past):
    spec = spec_from_config({"model_type": "deepseek_v2", "num_hidden_layers": 1, "first_k_dense_replace": 1})
    ((_, block),) = spec.attentions
    work = Flops(spec).forward(1, past)
    up = 2 * block.n_heads * (block.nope_dim + block.v_dim) * block.kv_rank
    plain = 2 * block.n_heads * (block.q_dim + block.v_dim) * (past + 1) + up * (past + 1)
    absorbed = 2 * block.n_heads * (2 * block.kv_rank + block.rope.dim) * (past + 1) + up
    first = Flops(spec).forward(1)
    assert work.total - first.total == min(plain, absorbed) - min(
        up + 2 * block.n_heads * (block.q_dim + block.v_dim), up + 2 * block.n_heads * (2 * block.kv_rank + block.rope.dim)
    )


def test_two_operations_a_weight():
    """A dense model without attention between tokens: two for each weight but the embedding's."""
    spec = spec_from_config(TINY)
    found = account(spec)
    norms = sum(t.parameters for t in found.tensors if len(t.shape) == 1)
    assert Flops(spec).decode().weights == 2 * (found.parameters.total - found.parameters.embedding - norms)
