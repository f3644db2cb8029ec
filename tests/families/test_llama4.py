"""Llama 4: the patterns of its layers, and what has no key in GGUF."""

from __future__ import annotations

import pytest

from ordito.errors import ConfigError, SpecError
from ordito.families import header_from_spec, spec_from_config, spec_from_header
from ordito.families.config import leaves
from ordito.families.family import Header
from ordito.spec import Attention, Llama3Scaling, MixtureOfExperts

TINY = {
    "model_type": "llama4_text",
    "vocab_size": 61,
    "hidden_size": 40,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 22,
    "intermediate_size_mlp": 56,
    "num_local_experts": 4,
}
SCOUT = {"factor": 16.0, "high_freq_factor": 1.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192}


def test_every_fourth_layer_has_full_attention_and_no_positions():
    attentions = leaves(spec_from_config(TINY), Attention)
    assert [a.rope is None for a in attentions] == [a.chunk is None for a in attentions] == [False, False, False, True] * 2
    assert (
        [a.temperature is None for a in attentions]
        == [a.q_norm is not None for a in attentions]
        == [True] * 3 + [False] + [True] * 3 + [False]
    )


@pytest.mark.parametrize(
    ("change", "routed"),
    [
        ({}, list(range(8))),
        ({"interleave_moe_layer_step": 3}, [2, 5]),
        ({"moe_layers": [0, 7]}, [0, 7]),
        ({"moe_layers": []}, []),
    ],
)
def test_which_layers_have_experts(change, routed):
    made = spec_from_config(TINY | change)
    assert [int(path.split(".")[1]) for path, leaf in made.leaves() if isinstance(leaf, MixtureOfExperts)] == routed


def test_attn_temperature_tuning_4_means_true():
    assert spec_from_config(TINY | {"attn_temperature_tuning": 4}) == spec_from_config(TINY)


@pytest.mark.parametrize("change", [{}, {"num_local_experts": 128, "use_qk_norm": False}, {"interleave_moe_layer_step": 2}])
def test_gguf_header_to_spec_and_back(change):
    made = spec_from_config(TINY | change | {"rope_scaling": SCOUT | {"rope_type": "llama3"}})
    assert isinstance(leaves(made, Attention)[0].rope.scaling, Llama3Scaling)
    assert spec_from_header(header_from_spec(made)) == made


@pytest.mark.parametrize(
    "change",
    [
        {"use_qk_norm": False},
        {"attention_chunk_size": 4096},
        {"attn_temperature_tuning": False},
        {"attn_scale": 0.2},
        {"floor_scale": 4096},
        {"no_rope_layer_interval": 2},
        {"moe_layers": [0, 7]},
        {"moe_layers": []},
        {"attention_bias": True},
    ],
)
def test_what_gguf_has_no_key_for_is_refused(change):
    with pytest.raises(ConfigError, match="GGUF"):
        header_from_spec(spec_from_config(TINY | change))


def test_a_gguf_file_without_chunks_is_refused():
    header = header_from_spec(spec_from_config(TINY))
    metadata = {**header.metadata, "llama4.attention.sliding_window": 0}
    with pytest.raises(ConfigError, match="sliding_window"):
        spec_from_header(Header(metadata, header.shapes, header.values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"no_rope_layers": [1, 0]}, "8 entries of 0 or 1"),
        ({"no_rope_layers": [2] * 8}, "8 entries of 0 or 1"),
        ({"layer_types": ["chunked_attention"] * 7}, "8 entries"),
        ({"layer_types": ["sliding_attention"] * 8}, "8 entries"),
        ({"attn_temperature_tuning": "no"}, "true or false"),
        ({"num_local_experts": 0}, "n_experts"),
        ({"num_experts_per_tok": 5}, "5 of 4 experts"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(change, message):
    with pytest.raises((ConfigError, SpecError), match=message):
        spec_from_config(TINY | change)
