"""gpt-oss 20b and 120b.

Pre-norm layers of grouped-query attention and a mixture of experts. Sliding-window layers alternate with full ones; the
softmax of each head has a learned sink, a logit in its denominator that takes probability from the keys; YaRN extends the
context from 4,096 tokens. Experts are SwiGLU with gate and linear part clamped, and 1 added to the latter. Attention, router
and experts have biases. Source: the model card, arXiv:2508.10925, section 2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import QKVO_BIAS, layer_types, leaves, metadata_value, widest_window, windows_from_config
from ordito.families.decoder import (
    Sizes,
    config_from_sizes,
    metadata_from_sizes,
    partly_rotated,
    sizes_from_config,
    sizes_from_header,
)
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import QKV, As, Composed, Interleaved, Names, Transposed
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, FeedForward, MixtureOfExperts, Rope, Router, Spec, YarnScaling

DEFAULTS = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
}
"""Defaults of transformers' GptOssConfig, which are those of the 120b."""
THETA = 150000.0
NORM = {"kind": "rms", "scale_in_fp32": True}
SLOPE, LIMIT = 1.702, 7.0


def yarn(factor: float = 32.0, context: int = 4096) -> YarnScaling:
    """The YaRN of the releases; the bounds of its ramp are not rounded to whole channels."""
    magnitude = YarnScaling.usual_magnitude(factor)
    return YarnScaling(factor=factor, context=context, truncate=False, attention_factor=magnitude)


def build(
    sizes: Sizes,
    windows: tuple[int | None, ...],
    router: Router,
    *,
    attention_bias: bool = True,
    limit: float = LIMIT,
    slope: float = SLOPE,
) -> Spec:
    """The spec of a gpt-oss; `windows` has an entry for each layer (None: full attention)."""
    expert = sizes.mlp(activation="gelu_sigmoid", bias=True, limit=limit, up_offset=1.0, slope=slope)
    mlp = MixtureOfExperts(d_model=sizes.d_model, router=router, expert=expert)
    bias = QKVO_BIAS if attention_bias else ()
    return sizes.spec(
        "gpt_oss", [sizes.layer(sizes.attention(bias=bias, sinks=True, window=window), mlp) for window in windows]
    )


def build_router(n_experts: int, top_k: int) -> Router:
    """The `top_k` experts with the largest logits, weighted by a softmax over these logits only."""
    return Router(n_experts=n_experts, top_k=top_k, choose_first=True, bias=True)


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: gpt_oss`."""
    sizes = sizes_from_config(config, DEFAULTS, theta=THETA, norms=NORM)
    if config.values.get("rope_parameters") is None and config.values.get("rope_scaling") is None:
        sizes = replace(sizes, rope=Rope(dim=sizes.head_dim, theta=sizes.rope.theta, scaling=yarn()))
    config.must_be("hidden_act", "silu")  # of the gate, x sigmoid(slope x), whose slope is `swiglu_alpha`
    window = config.size_or_none("sliding_window", 128)
    spec = build(
        sizes,
        windows_from_config(config, sizes.n_layers, window, lambda i: i % 2 == 0),
        build_router(
            config.bounded("num_local_experts", config.bounded("num_experts", 128)),
            config.size("num_experts_per_tok", config.size("experts_per_token", 4)),
        ),
        attention_bias=config.flag("attention_bias", True),
        limit=config.real("swiglu_limit", LIMIT),
        slope=config.real("swiglu_alpha", SLOPE),
    )
    config.finish(IRRELEVANT | {"initial_context_length", "experts_per_token"})
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    mixture = leaves(spec, MixtureOfExperts)[0]
    assert isinstance(mixture.expert, FeedForward), "gpt-oss's experts are not mixtures"
    return config_from_sizes(spec, "GptOss") | {
        "hidden_act": "silu",
        "num_local_experts": mixture.router.n_experts,
        "num_experts_per_tok": mixture.router.top_k,
        "sliding_window": widest_window(spec) or 128,
        "layer_types": layer_types(spec),
        "swiglu_limit": mixture.expert.limit,
        "swiglu_alpha": mixture.expert.slope,
        "attention_bias": bool(leaves(spec, Attention)[0].bias),
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `gpt-oss`, which has no keys for the pattern of windows, the gate's limit and slope: the releases'."""
    reader = header.reader()
    sizes = sizes_from_header(header, reader, norms=NORM)
    sizes = replace(sizes, d_ff=reader.size("expert_feed_forward_length"))
    if isinstance(sizes.rope.scaling, YarnScaling):
        sizes = replace(sizes, rope=replace(sizes.rope, scaling=replace(sizes.rope.scaling, truncate=False)))
    window = reader.size("attention.sliding_window")
    windows = tuple(window if i % 2 == 0 else None for i in range(sizes.n_layers))
    spec = build(
        sizes,
        windows,
        build_router(**experts.counts_from_header(reader)),
        attention_bias="blk.0.attn_output.bias" in header.shapes,
    )
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    mixture = leaves(spec, MixtureOfExperts)[0]
    assert isinstance(mixture.expert, FeedForward), "gpt-oss's experts are not mixtures"
    metadata_value((mixture.expert.limit, mixture.expert.slope), (LIMIT, SLOPE), "the limit and slope of the experts' gates")
    metadata = metadata_from_sizes(spec, "gelu_sigmoid") | experts.metadata_from_experts(spec)
    return metadata | {"attention.sliding_window": widest_window(spec)}


def caveat(spec: Spec) -> str | None:
    """llama.cpp rounds the bounds of YaRN's ramp in every model."""
    rope = leaves(spec, Attention)[0].rope
    if (told := partly_rotated(spec)) or rope is None or not isinstance(rope.scaling, YarnScaling):
        return told
    rounded = replace(rope, scaling=replace(rope.scaling, truncate=True))
    if rounded.frequencies(1) == rope.frequencies(1):
        return None
    return (
        "llama.cpp will compute other numbers than Ordito, above all in long texts, because it rounds the bounds of YaRN's "
        "ramp to whole channels, and this model's are not rounded (truncate is false)"
    )


EXPERTS = "layers.{}.mlp.experts"
NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        "layers.{}.attention.sinks": "model.layers.{}.self_attn.sinks",
        "layers.{}.mlp.router": "model.layers.{}.mlp.router",
        (f"{EXPERTS}.gate.weight", f"{EXPERTS}.up.weight"): As(
            "model.layers.{}.mlp.experts.gate_up_proj", Composed(Transposed(), Interleaved(axis=1))
        ),
        (f"{EXPERTS}.gate.bias", f"{EXPERTS}.up.bias"): As(
            "model.layers.{}.mlp.experts.gate_up_proj_bias", Interleaved(axis=1)
        ),
        f"{EXPERTS}.down.weight": As("model.layers.{}.mlp.experts.down_proj", Transposed()),
        f"{EXPERTS}.down.bias": "model.layers.{}.mlp.experts.down_proj_bias",
    },
)
ORIGINAL = Names(
    {
        "embedding.tokens": "embedding",
        "layers.{}.attention_norm.weight": "block.{}.attn.norm.scale",
        QKV: "block.{}.attn.qkv",
        "layers.{}.attention.o": "block.{}.attn.out",
        "layers.{}.attention.sinks": "block.{}.attn.sinks",
        "layers.{}.mlp_norm.weight": "block.{}.mlp.norm.scale",
        "layers.{}.mlp.router": "block.{}.mlp.gate",
        (f"{EXPERTS}.gate.weight", f"{EXPERTS}.up.weight"): As("block.{}.mlp.mlp1_weight", Interleaved(axis=1)),
        (f"{EXPERTS}.gate.bias", f"{EXPERTS}.up.bias"): As("block.{}.mlp.mlp1_bias", Interleaved(axis=1)),
        f"{EXPERTS}.down.weight": "block.{}.mlp.mlp2_weight",
        f"{EXPERTS}.down.bias": "block.{}.mlp.mlp2_bias",
        "norm.weight": "norm.scale",
        "head": "unembedding",
    }
)
"""The names in OpenAI's own checkpoints, in the folder `original` of the releases."""


def gguf_names(spec: Spec) -> Names:
    """GGUF's names. Rotary pairs are not interleaved as in GGUF's `llama`, so that no rows are permuted."""
    own: experts.Table = {
        "layers.{}.attention.sinks": "blk.{}.attn_sinks.weight",
        "layers.{}.mlp_norm": "blk.{}.post_attention_norm",
    }
    return Names({**llama.GGUF_NAMES.table, **experts.gguf_names(spec), **own})


FAMILY = Family(
    name="gpt_oss",
    title="gpt-oss",
    members="gpt-oss-20b, gpt-oss-120b",
    model_types=("gpt_oss",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    layouts=lambda spec: (ORIGINAL,),
    gguf=GGUF(
        architectures=("gpt-oss",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=gguf_names,
        label=lambda spec: "gpt-oss",
        caveat=caveat,
    ),
    prompts=("harmony",),
)
