"""Phi-3-small has no class in transformers: its logits are compared with the published formulas, written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_model import random_checkpoint

from ordito import families
from ordito.nn.runtime import load_transformer

CONFIG = {
    "model_type": "phi3small",
    "vocab_size": 71,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "ff_intermediate_size": 50,
    "gegelu_limit": 1.5,
    "layer_norm_epsilon": 1e-4,
    "max_position_embeddings": 96,
    "rope_embedding_base": 1e4,
    "blocksparse_block_size": 4,
    "blocksparse_num_local_blocks": 2,
    "blocksparse_vert_stride": 3,
    "dense_attention_every_n_layers": 2,
    "mup_attn_multiplier": 2.0,
    "mup_embedding_multiplier": 3.0,
    "mup_width_multiplier": 4.0,
    "dummy_token_indices": [66, 68, 70],
}


def visible(head, length, config):
    """The mask (length, length) of one head of a block-sparse layer."""
    block, local, stride = (config[f"blocksparse_{k}"] for k in ("block_size", "num_local_blocks", "vert_stride"))
    rows = [
        [j <= i and (i // block - j // block < local or (j // block + head + 1) % stride == 0) for j in range(length)]
        for i in range(length)
    ]
    return torch.tensor(rows)


def reference(state, ids, config):
    """The forward pass of Phi3SmallForCausalLM over one text, from its formulas. `state` has the published names."""
    heads, groups, length = config["num_attention_heads"], config["num_key_value_heads"], len(ids)
    width, per = config["hidden_size"] // heads, heads // groups
    angles = torch.outer(
        torch.arange(length).double(), config["rope_embedding_base"] ** (-torch.arange(0, width, 2).double() / width)
    )
    cos, sin = (torch.cat((f(angles), f(angles)), dim=-1)[:, None] for f in (torch.cos, torch.sin))

    def norm(x, name):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, config["layer_norm_epsilon"])

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def rotate(x):
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    table = state["model.embed_tokens.weight"]
    x = table[ids] * config["mup_embedding_multiplier"]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        qkv = linear(norm(x, f"{layer}.input_layernorm"), f"{layer}.self_attn.query_key_value")
        qkv = qkv.view(length, groups, per + 2, width)
        q, k, v = rotate(qkv[:, :, :-2].flatten(1, 2)), rotate(qkv[:, :, -2]), qkv[:, :, -1]
        outputs = []
        for head in range(heads):
            scores = q[:, head] @ k[:, head // per].T * config["mup_attn_multiplier"] / width
            sparse = (i + 1) % config["dense_attention_every_n_layers"] != 0
            seen = visible(head, length, config) if sparse else torch.ones(length, length).tril().bool()
            outputs.append(scores.masked_fill(~seen, -math.inf).softmax(-1) @ v[:, head // per])
        x = x + linear(torch.cat(outputs, dim=-1), f"{layer}.self_attn.dense")
        up = linear(norm(x, f"{layer}.post_attention_layernorm"), f"{layer}.mlp.up_proj")
        limit = config["gegelu_limit"]
        gelu, linear_part = up[:, ::2].clamp(max=limit), up[:, 1::2].clamp(-limit, limit)
        x = x + linear(gelu * torch.sigmoid(1.702 * gelu) * (linear_part + 1), f"{layer}.mlp.down_proj")
    logits = norm(x, "model.final_layernorm") @ table.T / config["mup_width_multiplier"]
    return logits.index_fill(-1, torch.tensor(config["dummy_token_indices"]), -math.inf)


@pytest.mark.parametrize("change", [{}, {"num_key_value_heads": 1, "dense_attention_every_n_layers": 3}])
@pytest.mark.parametrize("length", [3, 41])
def test_logits_are_those_of_the_published_formulas(change, length, tmp_path):
    config = CONFIG | change
    spec = families.spec_from_config(config)
    checkpoint = random_checkpoint(spec, tmp_path, 0.4)
    state = {name: torch.from_numpy(tensor.to_float32().copy()).double() for name, tensor in checkpoint.stored.items()}
    ids = torch.randint(0, 71, (length,), generator=torch.Generator().manual_seed(3))
    module = load_transformer(checkpoint)
    with torch.no_grad():
        got, expected = module(ids[None])[0], reference(state, ids, config)
        cache = module.new_cache(1, length)
        stepped = torch.cat([module(ids[None, t : t + 1], cache=cache)[0] for t in range(length)])
    finite = expected.isfinite()
    assert torch.equal(got.isfinite(), finite)
    assert (~finite).sum() == 3 * length
    for logits in (got, stepped):
        assert float((logits - expected)[finite].abs().max()) <= 1e-5 * float(expected[finite].abs().max())


def test_config_round_trip():
    lists = {"short_factor": [1.0 + i / 10 for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
    scaling = {"type": "su", **lists, "original_max_position_embeddings": 32, "short_mscale": 1.1, "long_mscale": 1.2}
    for change in ({}, {"rope_scaling": scaling}, {"dense_attention_every_n_layers": 3}):
        spec = families.spec_from_config(CONFIG | change)
        assert families.spec_from_config(families.config_from_spec(spec)) == spec
