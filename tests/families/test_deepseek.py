"""DeepSeek: what its files say in several ways, what they cannot say, and the cache of latent attention."""

from __future__ import annotations

import dataclasses
import tracemalloc
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito import accounting as account
from ordito import spec
from ordito.checkpoint.assemble import ours_from, theirs_from
from ordito.errors import ConfigError, SpecError
from ordito.families import (
    config_from_spec,
    family_of,
    gguf_of,
    header_from_spec,
    names_of,
    spec_from_config,
    spec_from_header,
)
from ordito.families.config import leaves
from ordito.families.family import Header
from ordito.nn import Transformer

YARN = {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 16}
V3 = {
    "model_type": "deepseek_v3",
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 18,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 22,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
}
V2 = V3 | {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy"}


@settings(deadline=None)
@given(st.floats(0.01, 5.0), st.floats(1.05, 100.0), st.integers(1, 99))
def test_any_slope_makes_the_round_trip(slope, factor, nope_dim):
    scaling = YARN | {"factor": factor, "mscale": slope, "mscale_all_dim": slope}
    made = spec_from_config(V3 | {"qk_nope_head_dim": nope_dim, "rope_scaling": scaling})
    assert spec_from_config(config_from_spec(made)) == made


def test_a_slope_is_written_as_it_was_read():
    scaling = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}
    written = config_from_spec(spec_from_config(V2 | {"rope_scaling": scaling}))["rope_parameters"]
    assert (written["mscale"], written["mscale_all_dim"], written["attention_factor"]) == (0.707, 0.707, 1.0)


def test_the_published_scale():
    published = YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096}
    attention = leaves(spec_from_config({"model_type": "deepseek_v3", "rope_scaling": published}), spec.LatentAttention)[0]
    assert attention.scale == pytest.approx(0.1352337788608801)  # 192 ** -0.5 * (0.1 ln 40 + 1) ** 2
    assert attention.rope.magnitude(4096) == 1.0


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 5), st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_the_cache_holds_a_latent_and_a_rotary_key(layers, kv_rank, half_rope, batch):
    sizes = {"num_hidden_layers": layers, "kv_lora_rank": kv_rank, "qk_rope_head_dim": 2 * half_rope}
    made = spec_from_config(V3 | sizes)
    cache = Transformer(made).new_cache(batch, 7)
    assert len(cache.slots) == layers
    numbers = sum(store[0, 0].numel() for pair in cache.slots for store in pair)
    assert numbers == layers * (kv_rank + 2 * half_rope)
    assert account.count(made).kv_bytes_per_token == 2 * numbers


@pytest.mark.parametrize("config", [V2, V3, V2 | {"q_lora_rank": None, "topk_method": "greedy"}])
def test_gguf_header_to_spec_and_back(config):
    made = spec_from_config(config)
    assert spec_from_header(header_from_spec(made)) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm_eps": 1e-5}, "epsilon"),
        ({"rope_scaling": YARN}, "magnitude"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "YaRN"),
        ({"num_nextn_predict_layers": 1}, "multi-token"),
        ({"first_k_dense_replace": 3}, "experts"),
        ({"attention_bias": True}, "cannot express"),
        ({"rope_interleave": False}, "cannot express"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        header_from_spec(spec_from_config(V3 | change))


def test_a_header_that_does_not_say_how_it_scores():
    for config in (V2, V3):
        made = spec_from_config(config)
        header = header_from_spec(made)
        metadata = {key: value for key, value in header.metadata.items() if not key.endswith("expert_gating_func")}
        assert spec_from_header(Header(metadata, header.shapes, header.values)) == made


def test_the_order_of_rows_is_not_written_out_before_they_are_there():
    """A header may claim more heads than there is memory for; that the tensors have them is seen later."""
    claimed = spec_from_config(V3 | {"num_attention_heads": 2**18, "num_key_value_heads": 2**18})
    tracemalloc.start()
    try:
        names_of(claimed)
        gguf_of(family_of(claimed)).names(claimed)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_both_layouts_of_gguf_hold_the_same_numbers():
    made = spec_from_config(V3)
    gguf = gguf_of(family_of(made))
    random = np.random.default_rng(0)
    ours = {name: random.standard_normal(shape).astype(np.float32) for name, shape in made.tensors().items()}
    attention = leaves(made, spec.LatentAttention)[0]
    apart, whole = (
        {name: array for binding in names.bindings(made) for name, array in theirs_from(binding, ours)}
        for names in (gguf.names(made), *gguf.layouts(made))
    )
    # Head h of the whole: the key's rows (nope, R), then the value's (v, R); apart, the key's are transposed.
    heads = whole["blk.0.attn_kv_b.weight"].reshape(attention.n_heads, -1, attention.kv_rank)
    assert np.array_equal(apart["blk.0.attn_k_b.weight"], heads[:, : attention.nope_dim].swapaxes(1, 2))
    assert np.array_equal(apart["blk.0.attn_v_b.weight"], heads[:, attention.nope_dim :])
    for names, file in ((gguf.names(made), apart), *((names, whole) for names in gguf.layouts(made))):
        for binding in names.bindings(made):
            for name, array in ours_from(binding, [file[theirs] for theirs in binding.theirs]).items():
                assert np.array_equal(array, ours[name])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (V3 | {"topk_method": "greedy"}, "topk_method"),
        (V3 | {"scoring_func": "softmax"}, "scoring_func"),
        (V2 | {"topk_method": "noaux_tc"}, "greedy"),
        (V3 | {"num_key_value_heads": 2}, "num_key_value_heads"),
        (V3 | {"n_group": 8, "topk_group": 4}, "groups of one expert"),
        (V3 | {"n_group": 3}, "equal groups"),
        (V3 | {"num_experts_per_tok": 5}, "5 of 4 experts"),
        (V3 | {"rope_scaling": {"type": "linear", "factor": 2.0, "mscale_all_dim": 1.0}}, "mscale_all_dim"),
        (V3 | {"rope_scaling": {"type": "yarn", "factor": 40, "mscale_all_dim": 1e308}}, "scale: got inf"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(config, message):
    with pytest.raises((ConfigError, SpecError), match=message):
        spec_from_config(config)


@torch.no_grad()
def test_two_tokens_ahead():
    torch.manual_seed(0)
    made = spec_from_config(V3 | {"num_nextn_predict_layers": 2})
    module, ids = Transformer(made).eval(), torch.randint(0, 61, (2, 9))
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    guesses = module.look_ahead(ids, module.hidden(ids))
    assert [tuple(guess.shape) for guess in guesses] == [(2, 8, 61), (2, 7, 61)]
    # A guess hangs on the tokens up to the one that it reads, and on no later one.
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % 61
    for k, (guess, changed) in enumerate(zip(guesses, module.look_ahead(other, module.hidden(other)), strict=True)):
        seen = 5 - (k + 1)
        assert torch.allclose(guess[:, :seen], changed[:, :seen], atol=1e-5)
        assert not torch.allclose(guess[:, seen], changed[:, seen], atol=1e-3)


def test_parameters_ahead_are_those_of_a_layer_and_three_norms_and_a_map():
    made = spec_from_config(V3 | {"num_nextn_predict_layers": 1})
    layer = sum(prod(shape) for name, shape in made.tensors().items() if name.startswith("layers.2.") and "bias" not in name)
    assert account.count(made).ahead_parameters == layer + 3 * 40 + 2 * 40 * 40
    assert account.count(dataclasses.replace(made, ahead=())).parameters == account.count(made).parameters
