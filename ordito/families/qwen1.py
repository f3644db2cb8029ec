"""Qwen 1 (1.8B, 7B, 14B, 72B), of which transformers has no class: the published code comes with the checkpoints.

LLaMA's layers with biases on the query, key and value projections. Beyond the training length, queries are multiplied by the
logarithm of their position to the base of that length (LogN scaling), and the rotary base theta grows in steps (dynamic
NTK). Source: arXiv:2309.16609, and that code.
"""

from __future__ import annotations

from typing import Any

from ordito.families import llama
from ordito.families.config import QKV_BIAS, QKVO_BIAS, head_size, leaves, metadata_value
from ordito.families.decoder import Sizes, metadata_from_sizes, sizes_from_header
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import QKV, Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, FeedForward, LogTemperature, Norm, QwenScaling, Rope, Spec

IRRELEVANT_HERE = IRRELEVANT | frozenset(
    """bf16 fp16 fp32 use_flash_attn use_cache_quantization use_cache_kernel softmax_in_fp32 onnx_safe attn_dropout_prob
    emb_dropout_prob resid_dropout_prob scale_attn_weights padding_side""".split()
)
"""The further keys choose how the published code computes, not what."""


def build(sizes: Sizes, temperature: LogTemperature | None, bias: bool) -> Spec:
    """The spec of a Qwen 1; `bias` gives one to the output projection and the feed-forward too (in no release)."""
    attention = sizes.attention(bias=QKVO_BIAS if bias else QKV_BIAS, temperature=temperature)
    return sizes.spec("qwen", [sizes.layer(attention, sizes.mlp(bias=bias))] * sizes.n_layers)


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: qwen`. `intermediate_size` is the width of gate and up together: 2 d_ff."""
    d_model, n_heads = config.size("hidden_size", 4096), config.size("num_attention_heads", 32)
    trained, head_dim = config.size("seq_length", 2048), config.size("kv_channels", None) or head_size(config, d_model, n_heads)
    config.must_be("scale_attn_weights", True)
    if (part := config.real("rotary_pct", 1.0)) > 1:
        raise config.fail("rotary_pct", part, "at most 1")
    scaling = QwenScaling(context=trained) if config.flag("use_dynamic_ntk", True) else None
    temperature = LogTemperature(length=trained) if config.flag("use_logn_attn", True) else None
    sizes = Sizes(
        vocab_size=config.size("vocab_size", 151936),
        d_model=d_model,
        n_layers=config.bounded("num_hidden_layers", 32),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        d_ff=config.size("intermediate_size", 22016) // 2,
        context=config.size("max_position_embeddings", trained),
        eps=config.real("layer_norm_epsilon", 1e-6),
        rope=Rope(dim=int(head_dim * part), theta=config.real("rotary_emb_base", 1e4), scaling=scaling),
        tied=config.flag("tie_word_embeddings", False),
    )
    spec = build(sizes, temperature, bias=not config.flag("no_bias", True))
    config.finish(IRRELEVANT_HERE)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    assert attention.rope is not None, "Qwen's layers have rotary positions"
    scaling, temperature = attention.rope.scaling, attention.temperature
    trained = spec.context
    if isinstance(temperature, LogTemperature):
        trained = temperature.length
    elif isinstance(scaling, QwenScaling):
        trained = scaling.context
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attention.n_heads,
        "kv_channels": attention.head_dim,
        "intermediate_size": 2 * mlp.d_ff,
        "max_position_embeddings": spec.context,
        "seq_length": trained,
        "layer_norm_epsilon": norm.eps,
        "rotary_emb_base": attention.rope.theta,
        "rotary_pct": attention.rope.dim / attention.head_dim,
        "use_dynamic_ntk": scaling is not None,
        "use_logn_attn": temperature is not None,
        "no_bias": not mlp.bias,
        "tie_word_embeddings": spec.tied,
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `qwen`, which has no keys for LogN scaling and dynamic NTK: they are lost."""
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    spec = build(Sizes(**{**vars(sizes), "d_ff": sizes.d_ff // 2}), None, bias=False)
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    metadata_value(leaves(spec, Attention)[0].temperature, None, "a scaling of queries by their position (LogN)")
    return metadata_from_sizes(spec) | {"feed_forward_length": 2 * leaves(spec, FeedForward)[0].d_ff}


NAMES = Names(
    {
        "embedding.tokens": "transformer.wte",
        "layers.{}.attention_norm": "transformer.h.{}.ln_1",
        QKV: "transformer.h.{}.attn.c_attn",
        "layers.{}.attention.o": "transformer.h.{}.attn.c_proj",
        "layers.{}.mlp_norm": "transformer.h.{}.ln_2",
        "layers.{}.mlp.up": "transformer.h.{}.mlp.w1",
        "layers.{}.mlp.gate": "transformer.h.{}.mlp.w2",
        "layers.{}.mlp.down": "transformer.h.{}.mlp.c_proj",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    ignored={r"transformer\.rotary_emb\.inv_freq": "the rotary frequencies follow from the spec"},
)
GGUF_NAMES = Names({**{key: value for key, value in llama.GGUF_NAMES.table.items() if key not in QKV}, QKV: "blk.{}.attn_qkv"})

FAMILY = Family(
    name="qwen1",
    title="Qwen 1",
    members="Qwen 1.8B, 7B, 14B, 72B (the first generation)",
    model_types=("qwen",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("qwen",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
    ),
    prompts=("qwen2",),
)
