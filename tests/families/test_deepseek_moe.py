"""DeepSeekMoE has no class in transformers: it is compared with LLaMA's layers there, with the mixtures of DeepSeek V2.

V2's mixture computes the same if it routes greedily, and neither scales nor renormalises the weights.
"""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import save_file
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Moe

from ordito import accounting
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder, write_json
from ordito.errors import ConfigError
from ordito.families import config_from_spec, header_from_spec, spec_from_config, spec_from_header
from ordito.nn.runtime import load_transformer

TINY = {
    "model_type": "deepseek",
    "vocab_size": 71,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "moe_intermediate_size": 20,
    "n_routed_experts": 6,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-3,
}
PUBLISHED = TINY | {
    "vocab_size": 102400,
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "moe_intermediate_size": 1408,
    "n_routed_experts": 64,
    "num_experts_per_tok": 6,
}


def reference(config):
    """A LLaMA whose later layers have DeepSeek V2's mixtures, with random weights."""
    plain = {key: value for key, value in config.items() if key != "model_type"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**plain, attn_implementation="eager"))
    mixture = transformers.DeepseekV2Config(**plain | {"num_key_value_heads": 4})
    for layer in model.model.layers[config["first_k_dense_replace"] :]:
        layer.mlp = DeepseekV2Moe(mixture)
    generator = torch.Generator().manual_seed(7)
    for _, parameter in sorted(model.named_parameters()):
        offset = 1.0 if parameter.ndim == 1 else 0.0
        scale = 0.3 if parameter.ndim == 1 else 1.5 * parameter.shape[-1] ** -0.5
        parameter.data.copy_(offset + scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def published(model):
    """The tensors under their published names, each expert's separate."""
    for name, tensor in model.state_dict().items():
        prefix, _, part = name.rpartition(".experts.")
        if part == "gate_up_proj":
            for e, (gate, up) in enumerate(expert.chunk(2) for expert in tensor):
                yield f"{prefix}.experts.{e}.gate_proj.weight", gate.clone()
                yield f"{prefix}.experts.{e}.up_proj.weight", up.clone()
        elif part == "down_proj":
            yield from ((f"{prefix}.experts.{e}.down_proj.weight", down.clone()) for e, down in enumerate(tensor))
        else:
            yield name, tensor


@pytest.mark.parametrize(
    "change", [{}, {"first_k_dense_replace": 0, "num_experts_per_tok": 1, "head_dim": 14, "attention_bias": True}]
)
@torch.no_grad()
def test_logits(change, tmp_path):
    config = TINY | change
    theirs = reference(config)
    write_json(tmp_path / "config.json", config)
    save_file(dict(published(theirs)), tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    ids = torch.randint(0, 71, (2, 30), generator=torch.Generator().manual_seed(1))
    got, expected = load_transformer(checkpoint)(ids), theirs(ids).logits
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    write_folder(tmp_path / "again", checkpoint.spec, dict(checkpoint))
    assert torch.equal(load_transformer(open_checkpoint(tmp_path / "again"))(ids), got)


@pytest.mark.parametrize("change", [{}, {"norm_topk_prob": True, "n_shared_experts": None, "tie_word_embeddings": True}])
def test_config_round_trip(change):
    made = spec_from_config(TINY | change)
    assert spec_from_config(config_from_spec(made)) == made


def test_gguf_header_to_spec_and_back():
    made = spec_from_config(TINY)
    assert spec_from_header(header_from_spec(made)) == made
    with pytest.raises(ConfigError, match="renormalisation"):
        header_from_spec(spec_from_config(TINY | {"norm_topk_prob": True}))


def test_published_totals():
    count = accounting.count(spec_from_config(PUBLISHED))
    assert (count.parameters, count.active_parameters) == (16_375_728_128, 2_828_650_496)


def test_a_model_without_experts_is_another():
    with pytest.raises(ConfigError, match="fewer than the 3 layers"):
        spec_from_config(TINY | {"first_k_dense_replace": 3})
