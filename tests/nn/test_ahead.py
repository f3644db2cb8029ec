"""Multi-token prediction: what looks one more token ahead is transformers' own module, and is optional in files."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from transformers.modeling_layers import MtpModel

from ordito import families
from ordito.account import count
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


@pytest.fixture
def module():
    torch.manual_seed(3)
    made = Transformer(families.spec_from_config({"model_type": "deepseek_v3", **CONFIG, "num_nextn_predict_layers": 1}))
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def weights(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@torch.no_grad()
def test_it_is_what_transformers_computes(module, tmp_path):
    write_folder(tmp_path, module.spec, weights(module))
    main = transformers.DeepseekV3ForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    config = copy.deepcopy(main.config)
    stored = open_checkpoint(tmp_path).stored

    def tensor(name):
        return torch.from_numpy(stored[name].to_float32().copy())

    further = MtpModel(main, 1).eval()
    layer = further.layers[0]
    state = {name: tensor(f"model.layers.2.{name}") for name in ("enorm.weight", "hnorm.weight", "eh_proj.weight")}
    state["post_norm.weight"] = tensor("model.layers.2.shared_head.norm.weight")
    block = {name: value for name, value in layer.mtp_block.state_dict().items() if "experts." not in name or "shared" in name}
    state |= {f"mtp_block.{name}": tensor(f"model.layers.2.{name}") for name in block}
    gates = [[tensor(f"model.layers.2.mlp.experts.{e}.{p}_proj.weight") for e in range(4)] for p in ("gate", "up", "down")]
    state["mtp_block.mlp.experts.gate_up_proj"] = torch.cat((torch.stack(gates[0]), torch.stack(gates[1])), dim=1)
    state["mtp_block.mlp.experts.down_proj"] = torch.stack(gates[2])
    layer.load_state_dict(state)

    ids = torch.randint(0, 61, (1, 15), generator=torch.Generator().manual_seed(1))
    ours = load_transformer(open_checkpoint(tmp_path))
    hidden = ours.hidden(ids)
    embedded, positions = main.model.embed_tokens(ids[:, 1:]), torch.arange(14)[None]
    mask = torch.full((14, 14), float("-inf")).triu(1)[None, None]
    expected = layer(embedded, hidden[:, :-1], main.model.rotary_emb(embedded, positions), mask, positions, None)
    got = ours.look_ahead(ids, hidden)[0]
    expected = main.lm_head(expected[0] if isinstance(expected, tuple) else expected)
    assert config.num_mtp_layers == 1
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@torch.no_grad()
def test_files_without_it_load_without_it(module, tmp_path):
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
