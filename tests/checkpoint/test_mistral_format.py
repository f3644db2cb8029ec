"""Mistral's own files: params.json and consolidated.safetensors, names and rope as Meta has them."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import save_file

import ordito
from ordito.families import spec_from_config
from ordito.families.mistral_params import config_from_params

SIZES = {"dim": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "hidden_dim": 72, "norm_eps": 1e-4}
PARAMS = SIZES | {"vocab_size": 71, "rope_theta": 1e5, "max_position_embeddings": 64}


def meta(weight, heads):
    """Hugging Face's rows of q or k in Meta's order: the inverse of the permutation in transformers' conversion script."""
    rows, width = weight.shape
    return weight.view(heads, 2, rows // heads // 2, width).transpose(1, 2).reshape(rows, width).contiguous()


def consolidated(model, params):
    """The tensors of a transformers model under Mistral's names."""
    state = model.state_dict()
    out = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
    }
    for i in range(params["n_layers"]):
        ours, theirs = f"layers.{i}", f"model.layers.{i}"
        out[f"{ours}.attention.wq.weight"] = meta(state[f"{theirs}.self_attn.q_proj.weight"], params["n_heads"])
        out[f"{ours}.attention.wk.weight"] = meta(state[f"{theirs}.self_attn.k_proj.weight"], params["n_kv_heads"])
        out[f"{ours}.attention.wv.weight"] = state[f"{theirs}.self_attn.v_proj.weight"]
        out[f"{ours}.attention.wo.weight"] = state[f"{theirs}.self_attn.o_proj.weight"]
        out[f"{ours}.attention_norm.weight"] = state[f"{theirs}.input_layernorm.weight"]
        out[f"{ours}.ffn_norm.weight"] = state[f"{theirs}.post_attention_layernorm.weight"]
        if "moe" not in params:
            for name, w in (("gate", "w1"), ("down", "w2"), ("up", "w3")):
                out[f"{ours}.feed_forward.{w}.weight"] = state[f"{theirs}.mlp.{name}_proj.weight"]
            continue
        out[f"{ours}.feed_forward.gate.weight"] = state[f"{theirs}.mlp.gate.weight"]
        for e in range(params["moe"]["num_experts"]):
            gate, up = state[f"{theirs}.mlp.experts.gate_up_proj"][e].chunk(2)
            down = state[f"{theirs}.mlp.experts.down_proj"][e]
            for w, weight in (("w1", gate), ("w2", down), ("w3", up)):
                out[f"{ours}.feed_forward.experts.{e}.{w}.weight"] = weight
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


@pytest.mark.parametrize(
    ("kind", "change", "config"),
    [
        ("Mistral", {"sliding_window": 5}, {"sliding_window": 5}),
        ("Mistral", {}, {"sliding_window": None}),
        ("Mixtral", {"moe": {"num_experts": 3, "num_experts_per_tok": 2}}, {"num_local_experts": 3}),
        (
            "Ministral",
            {"sliding_window": [None, 6]},
            {"sliding_window": 6, "layer_types": ["full_attention", "sliding_attention"]},
        ),
        (
            "Ministral3",
            {
                "yarn": {
                    "factor": 4.0,
                    "original_max_position_embeddings": 8,
                    "beta": 32.0,
                    "alpha": 1.0,
                    "apply_scale": False,
                },
                "llama_4_scaling": {"beta": 0.3, "original_max_position_embeddings": 8},
            },
            {
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e5,
                    "factor": 4.0,
                    "original_max_position_embeddings": 8,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.3,
                }
            },
        ),
    ],
)
@torch.no_grad()
def test_a_folder_of_mistral_gives_the_logits_of_its_model(kind, change, config, tmp_path):
    params = PARAMS | change
    usual = {
        "vocab_size": 71, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 16, "intermediate_size": 72, "rms_norm_eps": 1e-4, "max_position_embeddings": 64,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    }  # fmt: skip
    made = getattr(transformers, f"{kind}Config")(**usual | config)
    made._attn_implementation = "eager"
    torch.manual_seed(2)
    model = getattr(transformers, f"{kind}ForCausalLM")(made).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    save_file(consolidated(model, params), tmp_path / "consolidated.safetensors")
    (tmp_path / "params.json").write_text(json.dumps(params))
    ids = torch.randint(0, 71, (1, 20), generator=torch.Generator().manual_seed(1))
    expected = model(ids).logits[0].numpy()
    got = ordito.load(tmp_path).logits(ids[0].tolist())
    assert abs(got - expected).max() <= 1e-5 * abs(expected).max()


def test_published_sizes():
    """params.json of Mistral Nemo, as published."""
    nemo = {
        "dim": 5120, "n_layers": 40, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32, "n_kv_heads": 8,
        "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": 131072,
    }  # fmt: skip
    spec = spec_from_config(config_from_params(nemo))
    assert ordito.account(spec).parameters.total == 12_247_782_400


def test_what_does_not_fit_is_refused():
    with pytest.raises(ordito.errors.ConfigError, match="repeats within 2 layers"):
        config_from_params(PARAMS | {"sliding_window": [1, 2, 3]})
    with pytest.raises(ordito.errors.ConfigError, match="use_biases"):
        config_from_params(PARAMS | {"use_biases": True})
