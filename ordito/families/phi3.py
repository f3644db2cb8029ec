"""Phi-3 and 3.5 (mini, medium), Phi-4, Phi-4-mini; Phi-3.5-MoE.

LLaMA's layers, stored with fused QKV and gate-up projections; sliding windows in some; LongRoPE for long contexts; partial
rotary positions in Phi-4-mini. Phi-3.5-MoE has LayerNorms with biases and SparseMixer routing, which chooses the two experts of
a token one after the other. Sources: arXiv:2404.14219 (section 2), 2412.08905, 2503.01743, 2409.12136 (SparseMixer).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts
from ordito.families.config import QKVO_BIAS, leaves, widest_window
from ordito.families.decoder import Sizes, config_from_sizes, metadata_from_sizes, sizes_from_config, sizes_from_header
from ordito.families.family import GGUF, Family, Header
from ordito.families.llama import GGUF_NAMES as LLAMA_GGUF
from ordito.families.llama import NAMES as LLAMA
from ordito.families.naming import GATE_UP, QKV, Names
from ordito.families.phi import LAYER_NORM
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, Block, Head, LongRopeScaling, MixtureOfExperts, Rope, Router, Spec

PHI3 = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
}
PHIMOE = PHI3 | {
    "hidden_size": 4096,
    "intermediate_size": 6400,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
"""Defaults of transformers' Phi3Config and PhimoeConfig."""
MSCALES = ("short_mscale", "long_mscale")
"""Keys of LongRoPE's attention factors up to the original context and beyond it, in Phi-3.5-MoE and Phi-3-small."""


def build_mixture(sizes: Sizes, n_experts: int, top_k: int, jitter: float) -> MixtureOfExperts:
    """Phi-3.5-MoE's mixture of experts, with SparseMixer routing."""
    router = Router(n_experts=n_experts, top_k=top_k, score="sparsemixer", jitter=jitter)
    return MixtureOfExperts(d_model=sizes.d_model, router=router, expert=sizes.mlp())


def spec_from_config(config: Reader) -> Spec:
    """config.json of `phi3` and `phimoe`."""
    label = config.text("model_type")
    if label == "phimoe":
        sizes = sizes_from_config(config, PHIMOE, theta=1e6, norms=LAYER_NORM, own_rope_keys=MSCALES)
        if isinstance(sizes.rope.scaling, LongRopeScaling):
            parameters = config.section("rope_parameters") or config.section("rope_scaling") or Reader({}, config.where)
            short, long = (parameters.real(key) for key in MSCALES)
            sizes = replace(sizes, rope=with_mscales(sizes.rope, short, long))
        bias = QKVO_BIAS if config.flag("attention_bias", False) else ()
        head: dict[str, Any] = {"bias": config.flag("lm_head_bias", False)}
        n_experts, top_k = config.bounded("num_local_experts", 16), config.size("num_experts_per_tok", 2)
        config.get("input_jitter_noise", None)  # noise in training only
        mlp: Block = build_mixture(sizes, n_experts, top_k, config.real("router_jitter_noise", 0.01))
    else:
        sizes, bias, head = sizes_from_config(config, PHI3), (), {}
        mlp = sizes.mlp()
        for key, only in (("attention_bias", False), ("mlp_bias", False), ("lm_head_bias", False), ("full_attn_mod", 1)):
            config.must_be(key, only)
    attention = sizes.attention(bias=bias, window=config.size_or_none("sliding_window", None))
    config.finish(IRRELEVANT | {"interpolate_factor"})
    return sizes.spec(label, [sizes.layer(attention, mlp)] * sizes.n_layers, **head)


def with_mscales(rope: Rope, short: float, long: float) -> Rope:
    """A LongRoPE with the attention factor `short` up to the original context and `long` beyond it."""
    assert isinstance(rope.scaling, LongRopeScaling), "only LongRoPE has two attention factors"
    beyond = long if long != short else None
    return replace(rope, scaling=replace(rope.scaling, attention_factor=short, long_attention_factor=beyond))


def mscales_of(scaling: LongRopeScaling) -> dict[str, float]:
    """The keys `MSCALES` of a LongRoPE: the inverse of `with_mscales`."""
    long = scaling.long_attention_factor or scaling.attention_factor
    return dict(zip(MSCALES, (scaling.attention_factor, long), strict=True))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    sparse, rope = spec.architecture == "phimoe", leaves(spec, Attention)[0].rope
    config = config_from_sizes(spec, "Phimoe" if sparse else "Phi3") | {"sliding_window": widest_window(spec)}
    config["pad_token_id"] = None  # transformers' default may be no id of a small vocabulary
    scaling = rope.scaling if rope else None
    if isinstance(scaling, LongRopeScaling):
        config["original_max_position_embeddings"] = scaling.context
    if not sparse:
        return config
    if isinstance(scaling, LongRopeScaling):
        config["rope_parameters"] |= mscales_of(scaling)
    router = leaves(spec, MixtureOfExperts)[0].router
    return config | {
        "attention_bias": bool(leaves(spec, Attention)[0].bias),
        "lm_head_bias": isinstance(spec.head, Head) and spec.head.bias,
        "num_local_experts": router.n_experts,
        "num_experts_per_tok": router.top_k,
        "router_jitter_noise": router.jitter,
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `phi3` and `phimoe`. There is no key for the router's jitter, which is taken to be the release's."""
    reader, label = header.reader(), header.architecture
    sizes = sizes_from_header(header, reader, norms=LAYER_NORM if label == "phimoe" else None)
    bias = QKVO_BIAS if "blk.0.attn_output.bias" in header.shapes else ()
    attention = sizes.attention(bias=bias, window=reader.size_or_none("attention.sliding_window", None))
    mlp: Block = sizes.mlp()
    if label == "phimoe":
        mlp = build_mixture(sizes, **experts.counts_from_header(reader), jitter=0.01)
    reader.finish({"expert_feed_forward_length"})
    head = {"bias": "output.bias" in header.shapes}
    return sizes.spec(label, [sizes.layer(attention, mlp)] * sizes.n_layers, **head)


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    metadata = metadata_from_sizes(spec) | {"attention.sliding_window": widest_window(spec) or 0}
    if spec.architecture != "phimoe":
        return metadata
    eps = metadata.pop("attention.layer_norm_epsilon")  # llama.cpp reads RMSNorm's key for these LayerNorms
    return metadata | experts.metadata_from_experts(spec) | {"attention.layer_norm_rms_epsilon": eps}


def caveat(spec: Spec) -> str | None:
    """llama.cpp has neither the windows nor SparseMixer; of PhiMoE it expects every bias, and a head that is not tied."""
    window = widest_window(spec)
    if spec.architecture == "phimoe":
        if spec.tied or not (isinstance(spec.head, Head) and spec.head.bias and leaves(spec, Attention)[0].bias):
            return (
                "llama.cpp will refuse this file, because it expects a PhiMoE with biases of attention and head, and with a "
                "head of its own"
            )
        return (
            "llama.cpp will compute other numbers than Ordito, because it chooses and weighs the experts of every PhiMoE by a "
            "softmax over all, and not one after the other (SparseMixer)"
        )
    if window is not None and window < spec.context:
        return (
            f"llama.cpp will compute other numbers than Ordito for texts of more than {window:,} tokens, because it ignores "
            "the sliding windows of every Phi-3"
        )
    return None


NAMES = replace(
    LLAMA,
    table={
        **{key: value for key, value in LLAMA.table.items() if key not in (*QKV, *GATE_UP)},
        QKV: "model.layers.{}.self_attn.qkv_proj",
        GATE_UP: "model.layers.{}.mlp.gate_up_proj",
    },
)
MOE_NAMES = replace(
    LLAMA,
    table={
        **LLAMA.table,
        "layers.{}.mlp.router": "model.layers.{}.block_sparse_moe.gate",
        **experts.separate("model.layers.{}.block_sparse_moe.experts.{}", "w1", "w3", "w2"),
    },
)
MOE_IN_MEMORY = replace(
    LLAMA,
    table={
        **LLAMA.table,
        "layers.{}.mlp.router": "model.layers.{}.mlp.router",
        **experts.stacked("model.layers.{}.mlp.experts"),
    },
)


def gguf_names(spec: Spec) -> Names:
    """GGUF's names. Rotary pairs are not interleaved as in GGUF's `llama`, so that no rows are permuted."""
    if spec.architecture == "phimoe":
        return Names({**LLAMA_GGUF.table, **experts.gguf_names(spec)})
    table = {key: value for key, value in LLAMA_GGUF.table.items() if key not in (*QKV, *GATE_UP)}
    return Names({**table, QKV: "blk.{}.attn_qkv", GATE_UP: "blk.{}.ffn_up"})


FAMILY = Family(
    name="phi3",
    title="Phi 3, 4",
    members="Phi-3 mini, medium; Phi-3.5 mini, MoE; Phi-4, Phi-4-mini",
    model_types=("phi3", "phimoe"),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: MOE_NAMES if spec.architecture == "phimoe" else NAMES,
    layouts=lambda spec: (MOE_IN_MEMORY,) if spec.architecture == "phimoe" else (),
    gguf=GGUF(
        architectures=("phi3", "phimoe"),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=gguf_names,
        caveat=caveat,
    ),
    prompts=("phi-4", "phi-4-mini", "phi-3"),
)
