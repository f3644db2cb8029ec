"""DeepSeek: variants of its published files, what they cannot express, the cache of MLA, and multi-token prediction."""

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
def test_round_trip_of_any_mscale(mscale, factor, nope_dim):
    scaling = YARN | {"factor": factor, "mscale": mscale, "mscale_all_dim": mscale}
    made = spec_from_config(V3 | {"qk_nope_head_dim": nope_dim, "rope_scaling": scaling})
    assert spec_from_config(config_from_spec(made)) == made


def test_an_mscale_is_written_as_it_was_read():
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
    elements = sum(store[0, 0].numel() for pair in cache.slots for store in pair)
    assert elements == layers * (kv_rank + 2 * half_rope)
    assert account.count(made).kv_bytes_per_token == 2 * elements


@pytest.mark.parametrize("config", [V2, V3, V2 | {"q_lora_rank": None, "topk_method": "greedy"}])
def test_gguf_header_to_spec_and_back(config):
    made = spec_from_config(config)
    assert spec_from_header(header_from_spec(made)) == made


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm_eps": 1e-5}, "epsilon"),
        ({"rope_scaling": YARN}, "attention factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "YaRN"),
        ({"num_nextn_predict_layers": 1}, "multi-token"),
        ({"first_k_dense_replace": 3}, "experts"),
        ({"attention_bias": True}, "cannot express"),
        ({"rope_interleave": False}, "cannot express"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        header_from_spec(spec_from_config(V3 | change))


def test_a_header_without_expert_gating_func():
    for config in (V2, V3):
        made = spec_from_config(config)
        header = header_from_spec(made)
        metadata = {key: value for key, value in header.metadata.items() if not key.endswith("expert_gating_func")}
        assert spec_from_header(Header(metadata, header.shapes, header.values)) == made


def test_the_permutation_of_rows_is_not_listed_when_names_are_made():
    """A header may claim more heads than memory could list; only later are they compared with the tensors."""
    claimed = spec_from_config(V3 | {"num_attention_heads": 2**18, "num_key_value_heads": 2**18})
    tracemalloc.start()
    try:
        names_of(claimed)
        gguf_of(family_of(claimed)).names(claimed)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_both_layouts_of_gguf_hold_the_same_weights():
    made = spec_from_config(V3)
    gguf = gguf_of(family_of(made))
    random = np.random.default_rng(0)
    ours = {name: random.standard_normal(shape).astype(np.float32) for name, shape in made.tensors().items()}
    attention = leaves(made, spec.LatentAttention)[0]
    separate, fused = (
        {name: array for binding in names.bindings(made) for name, array in theirs_from(binding, ours)}
        for names in (gguf.names(made), *gguf.layouts(made))
    )
    # Each head of the fused tensor has its key's rows (nope, R), then its value's (v, R); attn_k_b has the key transposed.
    heads = fused["blk.0.attn_kv_b.weight"].reshape(attention.n_heads, -1, attention.kv_rank)
    assert np.array_equal(separate["blk.0.attn_k_b.weight"], heads[:, : attention.nope_dim].swapaxes(1, 2))
    assert np.array_equal(separate["blk.0.attn_v_b.weight"], heads[:, attention.nope_dim :])
    for names, file in ((gguf.names(made), separate), *((names, fused) for names in gguf.layouts(made))):
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
def test_multi_token_prediction_of_two_tokens():
    torch.manual_seed(0)
    made = spec_from_config(V3 | {"num_nextn_predict_layers": 2})
    module, ids = Transformer(made).eval(), torch.randint(0, 61, (2, 9))
    for parameter in module.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    predictions = module.look_ahead(ids, module.hidden(ids))
    assert [tuple(logits.shape) for logits in predictions] == [(2, 8, 61), (2, 7, 61)]
    # Logits depend on the tokens up to the one whose embedding the module reads, and on no later one.
    other = ids.clone()
    other[:, 5] = (other[:, 5] + 1) % 61
    for k, (logits, changed) in enumerate(zip(predictions, module.look_ahead(other, module.hidden(other)), strict=True)):
        seen = 5 - (k + 1)
        assert torch.allclose(logits[:, :seen], changed[:, :seen], atol=1e-5)
        assert not torch.allclose(logits[:, seen], changed[:, seen], atol=1e-3)


def test_an_mtp_module_has_the_parameters_of_a_layer_three_norms_and_a_linear_map():
    made = spec_from_config(V3 | {"num_nextn_predict_layers": 1})
    layer = sum(prod(shape) for name, shape in made.tensors().items() if name.startswith("layers.2.") and "bias" not in name)
    assert account.count(made).ahead_parameters == layer + 3 * 40 + 2 * 40 * 40
    assert account.count(dataclasses.replace(made, ahead=())).parameters == account.count(made).parameters
