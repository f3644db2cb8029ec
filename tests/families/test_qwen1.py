"""Qwen 1 has no class in transformers: its logits are compared with the published formulas, written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tiny_model import random_checkpoint

from ordito import families
from ordito.nn.runtime import load_transformer

CONFIG = {
    "model_type": "qwen",
    "vocab_size": 71,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 14,
    "intermediate_size": 120,
    "layer_norm_epsilon": 1e-3,
    "seq_length": 9,
    "max_position_embeddings": 64,
    "rotary_emb_base": 1e4,
    "tie_word_embeddings": False,
}


def reference(state, ids, config):
    """The forward pass of QWenLMHeadModel over one text, from its formulas. `state` has the published names."""
    heads, width, trained, length = config["num_attention_heads"], config["kv_channels"], config["seq_length"], len(ids)
    alpha = 1.0
    if config.get("use_dynamic_ntk", True):
        alpha = max(2 ** math.ceil(math.log2(length / trained) + 1) - 1, 1)
    rotary_dim = int(width * config.get("rotary_pct", 1.0))
    theta = config["rotary_emb_base"] * alpha ** (rotary_dim / (rotary_dim - 2))
    angles = torch.outer(torch.arange(length).double(), theta ** (-torch.arange(0, rotary_dim, 2).double() / rotary_dim))
    cos, sin = (torch.cat((f(angles), f(angles)), dim=-1)[:, None] for f in (torch.cos, torch.sin))
    logn = torch.tensor([math.log(i) / math.log(trained) if i > trained else 1.0 for i in range(1, length + 1)]).double()

    def norm(x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["layer_norm_epsilon"]) * state[f"{name}.weight"]

    def linear(x, name):
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def rotate(x):
        a, b = x[..., : rotary_dim // 2], x[..., rotary_dim // 2 : rotary_dim]
        return torch.cat((x[..., :rotary_dim] * cos + torch.cat((-b, a), dim=-1) * sin, x[..., rotary_dim:]), dim=-1)

    x = state["transformer.wte.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"transformer.h.{i}"
        q, k, v = linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn").view(length, 3, heads, width).unbind(1)
        q, k = rotate(q), rotate(k)
        if config.get("use_logn_attn", True):
            q = q * logn[:, None, None]
        scores = torch.einsum("thd,shd->hts", q, k) / width**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf).softmax(-1)
        x = x + linear(torch.einsum("hts,shd->thd", scores, v).reshape(length, -1), f"{layer}.attn.c_proj")
        y = norm(x, f"{layer}.ln_2")
        x = x + linear(linear(y, f"{layer}.mlp.w1") * F.silu(linear(y, f"{layer}.mlp.w2")), f"{layer}.mlp.c_proj")
    return linear(norm(x, "transformer.ln_f"), "lm_head")


@pytest.mark.parametrize(
    "change",
    [{}, {"use_dynamic_ntk": False}, {"use_logn_attn": False}, {"no_bias": False, "rotary_pct": 0.6}],
    ids=["released", "no ntk", "no logn", "all biases, partial rope"],
)
@pytest.mark.parametrize("length", [7, 9, 10, 33])
def test_logits_are_those_of_the_published_formulas(change, length, tmp_path):
    config = CONFIG | change
    spec = families.spec_from_config(config)
    checkpoint = random_checkpoint(spec, tmp_path, 0.3)
    state = {name: torch.from_numpy(tensor.to_float32().copy()).double() for name, tensor in checkpoint.stored.items()}
    assert state["transformer.h.0.attn.c_attn.weight"].shape == (3 * 4 * 14, 48)
    ids = torch.randint(0, 71, (length,), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got = load_transformer(checkpoint)(ids[None])[0]
    expected = reference(state, ids, config)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_config_round_trip():
    for change in ({}, {"use_dynamic_ntk": False}, {"use_logn_attn": False}, {"no_bias": False, "rotary_pct": 0.6}):
        spec = families.spec_from_config(CONFIG | change)
        assert families.spec_from_config(families.config_from_spec(spec)) == spec


def test_gguf_round_trip_without_logn_and_dynamic_ntk():
    plain = families.spec_from_config(CONFIG | {"use_dynamic_ntk": False, "use_logn_attn": False})
    header = families.header_from_spec(plain)
    assert header.metadata["qwen.feed_forward_length"] == 120
    assert families.spec_from_header(header).to_dict() == plain.to_dict()
    with pytest.raises(families.ConfigError, match="GGUF"):
        families.header_from_spec(families.spec_from_config(CONFIG))
