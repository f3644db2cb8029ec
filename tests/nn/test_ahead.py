"""Multi-token prediction: equals transformers' module, and is optional in files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.modeling_layers import MtpModel

from ordito import families
from ordito.accounting import count
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.nn import Transformer
from ordito.nn.runtime import load_transformer

CONFIG = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 72,
    "moe_intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}


def random_module(config):
    torch.manual_seed(3)
    made = Transformer(families.spec_from_config({"model_type": "deepseek_v3", **config, "num_nextn_predict_layers": 1}))
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


@pytest.fixture
def module():
    return random_module(CONFIG)


def weights(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def test_it_is_what_transformers_computes(tmp_path):
    # transformers recognises the tensors of this module by the number of V3's layers, so the model has as many.
    made = random_module(CONFIG | {"num_hidden_layers": 61, "first_k_dense_replace": 60})
    write_folder(tmp_path, made.spec, weights(made))
    add_copies(tmp_path, 61)
    main = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    further = MtpModel.from_pretrained(main).eval()
    ids = torch.randint(0, 61, (1, 15), generator=torch.Generator().manual_seed(1))
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.ignored.values()) == {"a copy of the model's own"}
    ours = load_transformer(checkpoint)
    hidden, positions = ours.hidden(ids), torch.arange(14)[None]
    mask = torch.full((14, 14), float("-inf")).triu(1)[None, None]
    embedded = main.model.embed_tokens(ids[:, 1:])
    after = further.layers[0](embedded, hidden[:, :-1], main.model.rotary_emb(embedded, positions), mask, positions, None)
    got, expected = ours.look_ahead(ids, hidden)[0], main.lm_head(after)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def add_copies(folder, layer):
    """Published files repeat the model's embedding and head under the module's names."""
    tensors = load_file(folder / "model.safetensors")
    tensors[f"model.layers.{layer}.embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors[f"model.layers.{layer}.shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@torch.no_grad()
def test_files_without_multi_token_prediction_load(module, tmp_path):
    write_folder(tmp_path / "whole", module.spec, weights(module))
    main = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path / "whole").eval()
    main.save_pretrained(tmp_path / "main")
    whole, alone = open_checkpoint(tmp_path / "whole"), open_checkpoint(tmp_path / "main")
    assert (len(whole.spec.ahead), len(alone.spec.ahead)) == (1, 0)
    assert count(whole.spec).parameters == count(alone.spec).parameters == sum(p.numel() for p in main.parameters())
    assert count(whole.spec).ahead_parameters == sum(
        np.prod(shape) for name, shape in whole.spec.tensors().items() if name.startswith("ahead.")
    ) - CONFIG["n_routed_experts"]  # fmt: skip
    ids = torch.randint(0, 61, (1, 9))
    assert torch.equal(load_transformer(whole)(ids), load_transformer(alone)(ids))
