"""The KV cache layer by layer: its size, its growth, and its variants."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ordito import catalogue
from ordito.accounting import Cache, Layer, account, cache_of, variants
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.nn import Transformer

TINY = {"vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 24}
TINY |= {"num_key_value_heads": 2, "max_position_embeddings": 64}


def published(name):
    return spec_from_config(catalogue.find(name).config)


@pytest.mark.parametrize(
    "config",
    [
        TINY | {"model_type": "llama"},
        TINY | {"model_type": "gemma3_text", "head_dim": 6},
        {
            "model_type": "deepseek_v3",
            "num_hidden_layers": 4,
            "hidden_size": 32,
            "vocab_size": 96,
            "num_nextn_predict_layers": 0,
        }
        | {"n_routed_experts": 8, "n_group": 1, "topk_group": 1, "num_attention_heads": 4, "intermediate_size": 8}
        | {"moe_intermediate_size": 8},
        {"model_type": "gpt2", "n_layer": 2, "n_embd": 16, "n_head": 4, "vocab_size": 96},
    ],
    ids=["llama", "gemma3", "deepseek3", "gpt2"],
)
def test_a_token_takes_what_the_engine_allocates_for_it(config):
    spec = spec_from_config(config)
    with torch.device("meta"):
        module = Transformer(spec)
        one, many = (module.to(torch.float16).new_cache(1, capacity) for capacity in (1, 33))
    sizes = [sum(t.nbytes for pair in cache.slots for t in pair) for cache in (one, many)]
    whole = Cache(tuple(replace(layer, span=None) for layer in cache_of(spec).layers), spec.context)
    assert sizes == [account(spec).kv_cache.bytes_per_token, whole.at(33)]


def test_windows_and_chunks_stop_growing():
    gemma = account(published("gemma 3 27b")).kv_cache
    kinds = {layer.kind: times for layer, times in gemma.kinds()}
    assert kinds == {"window": 52, "full": 10}
    per_layer = 2 * 2 * 16 * 128
    assert gemma.bytes_per_token == 62 * per_layer
    assert gemma.at(131072) == per_layer * (52 * 1024 + 10 * 131072)
    scout = account(published("meta-llama/Llama-4-Scout-17B-16E")).kv_cache
    assert scout.at(131072) == 4096 * (36 * 8192 + 12 * 131072)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 50))), min_size=1, max_size=4),
    st.integers(0, 900),
)
def test_outgrows_at_the_first_context_that_is_too_long(layers, nbytes):
    cache = Cache(tuple(Layer(path="", kind="full", numbers=n, span=span) for n, span in layers), 64)
    at = cache.outgrows(nbytes)
    if at is None:
        assert cache.at(10**6) <= nbytes
    else:
        assert cache.at(at) > nbytes
        assert at == 1 or cache.at(at - 1) <= nbytes


def test_a_negative_context_is_refused():
    with pytest.raises(OrditoError, match="-1 tokens: expected at least 0"):
        account(published("GPT-2 small")).kv_cache.at(-1)


def test_an_encoder_has_no_cache():
    cache = account(spec_from_config({"model_type": "bert"})).kv_cache
    assert (cache.bytes_per_token, cache.at(512), cache.layers) == (0, 0, ())
    assert variants(spec_from_config({"model_type": "bert"})) == {}


def test_variants_of_attention():
    """Mistral 7B has 8 of 32 heads for keys: four times less than all, eight times more than one."""
    own, others = account(published("mistralai/Mistral-7B-v0.1")).kv_cache, variants(published("mistralai/Mistral-7B-v0.1"))
    assert set(others) == {"multi-head", "multi-query", "latent (4.5 head sizes)", "without windows"}
    assert others["multi-head"].bytes_per_token == 4 * own.bytes_per_token == 32 * others["multi-query"].bytes_per_token
    assert others["latent (4.5 head sizes)"].bytes_per_token == 2 * 32 * 576  # DeepSeek-V2's own, of the same head size
    assert others["without windows"].at(8192) == 2 * own.at(8192)


def test_variants_of_latents():
    others = variants(published("deepseek-v2"))
    assert others["multi-head"].bytes_per_token == 60 * 2 * 128 * (192 + 128)
    assert "windows of 1,024 on all but every 6th layer" in others
    assert "latent (4.5 head sizes)" not in others  # its own proportions
    gpt2 = variants(spec_from_config({"model_type": "gpt2"}))
    assert "multi-head" not in gpt2  # it is multi-head already
