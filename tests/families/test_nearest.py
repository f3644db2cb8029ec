"""An architecture that no family reads: the error names the nearest family, and what that does not know."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import ordito
from ordito.errors import ConfigError
from ordito.families import Header, header_from_spec, spec_from_config, spec_from_header

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
    "max_position_embeddings": 32,
}


def test_keys_are_named():
    llama = transformers.LlamaConfig(**SIZES).to_dict()
    with pytest.raises(
        ConfigError, match=r"'loom'.*nearest is LLaMA \(llama\).*does not know the keys 'shuttle_speed', 'weft'"
    ):
        spec_from_config(llama | {"model_type": "loom", "weft": 3, "shuttle_speed": 0.5})


def test_a_config_with_experts_is_nearest_to_a_family_with_experts():
    qwen = transformers.Qwen3MoeConfig(**SIZES, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2).to_dict()
    with pytest.raises(ConfigError, match=r"nearest is Qwen \(qwen3_moe\), which knows all of its keys"):
        spec_from_config(qwen | {"model_type": "loom"})


def test_an_activation_that_is_no_text_is_not_known():
    llama = transformers.LlamaConfig(**SIZES).to_dict() | {"hidden_act": []}
    with pytest.raises(ConfigError, match=r"nearest is LLaMA \(llama\), which does not know the keys 'hidden_act'"):
        spec_from_config(llama | {"model_type": "loom"})


@pytest.mark.parametrize(
    ("config", "said"),
    [
        # A class that no family has does not hide that the keys are an encoder's.
        (
            transformers.MPNetConfig(architectures=["MPNetModel"]),
            r"nearest is BERT \(bert\), .* 'relative_attention_num_buckets';",
        ),
        # Keys that a family knows and needs not, such as its dropout, are not unknown.
        (transformers.MT5Config(architectures=["MT5Model"]), r"nearest is T5 \(t5\), which knows all of its keys"),
        # Nor does an activation that no family has, which is named.
        (transformers.ArceeConfig(), r"nearest is LLaMA \(llama\), which does not know the keys 'hidden_act'"),
        # Families that read some keys in a way of their own.
        (transformers.DeepseekV32Config(), r"nearest is DeepSeek \(deepseek_v\d\), .* 'index_topk'"),
        (transformers.Mistral4Config(), r"nearest is DeepSeek \(deepseek_v3\)"),
    ],
)
def test_what_does_not_mislead(config, said):
    with pytest.raises(ConfigError, match=said):
        spec_from_config(config.to_dict())


def test_tensors_are_named(tmp_path):
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "loom", "weft": 3}))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"model.layers.0.self_attn.shuttle.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError) as error:
        ordito.load(tmp_path)
    said = str(error.value)
    assert "config.json: model_type is 'loom', which no family here reads" in said
    assert "the keys 'weft'" in said
    assert "no place for the tensors 'model.layers.N.self_attn.shuttle.weight'" in said
    assert "CONTRIBUTING.md" in said


def as_loom(spec, metadata=None, shapes=None):
    """The header of a GGUF file of a spec under the name of another architecture."""
    header = header_from_spec(spec)
    renamed = {key.replace(f"{header.architecture}.", "loom."): value for key, value in header.metadata.items()}
    named = {**renamed, "general.architecture": "loom", **(metadata or {})}
    return Header(named, {**header.shapes, **(shapes or {})}, lambda name: [1.0] * 4)


def test_keys_and_tensors_of_a_gguf_file_are_named():
    spec = spec_from_config(transformers.Qwen3Config(**SIZES, head_dim=8).to_dict())
    told = r"general\.architecture is 'loom', which no family here reads; the nearest is Qwen \(qwen3\), which "
    with pytest.raises(ConfigError, match=told + "knows all of its keys, and has a place for every tensor; CONTRIBUTING"):
        spec_from_header(as_loom(spec, shapes={"rope_freqs.weight": (4,)}))
    more = "does not know the keys 'attention.weft', and has no place for the tensors 'blk.N.shuttle.weight'"
    with pytest.raises(ConfigError, match=told + more):
        spec_from_header(as_loom(spec, {"loom.attention.weft": 3}, {"blk.1.shuttle.weight": (3,)}))


@pytest.mark.parametrize("label", ["gemma4", "qwen33", "loom"])
def test_a_gguf_file_with_little_in_it(label):
    with pytest.raises(ConfigError, match=f"general.architecture is '{label}', which no family here reads"):
        spec_from_header(Header({"general.architecture": label, f"{label}.block_count": 2}, {}, {}.__getitem__))


@pytest.mark.parametrize("label", ["llama", "loom"])
def test_an_embedding_that_is_no_matrix(label):
    with pytest.raises(
        ConfigError, match=r"token_embd\.weight has shape \(\)|'loom', which no family here reads; CONTRIBUTING"
    ):
        spec_from_header(Header({"general.architecture": label}, {"token_embd.weight": ()}, {}.__getitem__))


def test_without_a_similar_family_none_is_named():
    with pytest.raises(ConfigError, match=r"'loom', which no family here reads; CONTRIBUTING"):
        spec_from_config({"model_type": "loom", "warp": 1})
