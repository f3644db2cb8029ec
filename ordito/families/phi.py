"""Phi-1, Phi-1.5 and Phi-2.

Parallel layers, as in GPT-J: x + attention(norm(x)) + mlp(norm(x)), with one LayerNorm for both. Partial rotary positions (on
the first channels of each head), a plain GELU feed-forward, biases everywhere, the head included. Sources: arXiv:2306.11644,
2309.05463.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families.config import QKVO_BIAS, leaves
from ordito.families.decoder import Sizes, config_from_sizes, metadata_from_sizes, sizes_from_config, sizes_from_header
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import QKV, As, Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, Chain, Residual, Spec, Sum

LAYER_NORM = {"kind": "layer", "bias": True}
DEFAULTS = {
    "vocab_size": 51200,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "hidden_act": "gelu_new",
    "layer_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
}


def build(sizes: Sizes, qk_norm: bool) -> Spec:
    """The spec of a Phi; `qk_norm` adds norms on each head's queries and keys (in no release)."""
    norms = {name: sizes.norm(name, sizes.head_dim) if qk_norm else None for name in ("q_norm", "k_norm")}
    attention, mlp = sizes.attention(bias=QKVO_BIAS, **norms), sizes.mlp(gated=False, bias=True)
    layer = Residual(Chain(sizes.norm("norm"), Sum(attention, mlp)))
    return sizes.spec("phi", [layer] * sizes.n_layers, bias=True)


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: phi`."""
    sizes = sizes_from_config(config, DEFAULTS, eps="layer_norm_eps", norms=LAYER_NORM)
    spec = build(sizes, config.flag("qk_layernorm", False))
    config.finish(IRRELEVANT)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    config = config_from_sizes(spec, "Phi", eps="layer_norm_eps")
    # Without the key transformers' class assumes 0.5, so it is written even where all channels are rotated.
    config["rope_parameters"].setdefault("partial_rotary_factor", 1.0)
    if config["hidden_act"] == "gelu_pytorch_tanh":
        config["hidden_act"] = "gelu_new"  # as published: the same function, computed the same way
    return config | {"qk_layernorm": leaves(spec, Attention)[0].q_norm is not None}


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `phi2`."""
    reader = header.reader()
    spec = build(sizes_from_header(header, reader, activation="gelu_tanh", norms=LAYER_NORM), qk_norm=False)
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    return metadata_from_sizes(spec, activation="gelu_tanh")


TABLE: dict[str | tuple[str, ...], str | As] = {
    "embedding.tokens": "model.embed_tokens",
    "layers.{}.norm": "model.layers.{}.input_layernorm",
    "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
    "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
    "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
    "layers.{}.attention.o": "model.layers.{}.self_attn.dense",
    "layers.{}.attention.q_norm": "model.layers.{}.self_attn.q_layernorm",
    "layers.{}.attention.k_norm": "model.layers.{}.self_attn.k_layernorm",
    "layers.{}.mlp.up": "model.layers.{}.mlp.fc1",
    "layers.{}.mlp.down": "model.layers.{}.mlp.fc2",
    "norm": "model.final_layernorm",
    "head": "lm_head",
}
NAMES = Names(
    TABLE,
    aliases=((r"^(?=embed_tokens\.|layers\.|final_layernorm\.)", "model."),),
    ignored={r".*\.rotary_emb\.inv_freq": "the rotary frequencies follow from the spec"},
)
GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "layers.{}.norm": "blk.{}.attn_norm",
        QKV: "blk.{}.attn_qkv",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.mlp.up": "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    }
)
GGUF_UNFUSED = replace(
    GGUF_NAMES,
    table={
        **{key: value for key, value in GGUF_NAMES.table.items() if key != QKV},
        **{f"layers.{{}}.attention.{part}": f"blk.{{}}.attn_{part}" for part in "qkv"},
    },
)
"""The names in files converted from transformers' weights, which do not fuse queries, keys and values."""

FAMILY = Family(
    name="phi",
    title="Phi 1, 2",
    members="Phi-1, Phi-1.5, Phi-2",
    model_types=("phi",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("phi2",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
        label=lambda spec: "phi2",
        layouts=lambda spec: (GGUF_UNFUSED,),
    ),
    prompts=("phi-2",),
)
