"""DeepSeek V2, V2-Lite, V3, R1 and R1-Zero.

Multi-head latent attention (MLA), which caches one low-rank latent and one rotary key per token; after the first, dense layers,
DeepSeekMoE: many small routed experts, chosen within the best groups, and shared ones. V2 scores experts by a softmax; V3 by
sigmoids, with a bias on the choice that balances the load without an auxiliary loss, and it has a module for multi-token
prediction (MTP). Sources: arXiv:2405.04434 (section 2), 2412.19437 (section 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from ordito.families import experts, llama
from ordito.families.config import PUBLISHED, leaves
from ordito.families.decoder import Sizes, feedforwards, sizes_from_config
from ordito.families.deepseek_gguf import DEEPSEEK2
from ordito.families.deepseek_shape import KV_UP, V2, V3, build, kv_by_head, mscale_of, scoring, yarn_scale
from ordito.families.family import Family
from ordito.families.naming import As, Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import parameters_from_rope
from ordito.spec import (
    FeedForward,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Router,
    Spec,
    YarnScaling,
)

DEFAULTS: dict[str, dict[str, Any]] = {
    V2: {
        "vocab_size": 102400,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
    V3: {
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "max_position_embeddings": 4096,
    },
}
"""Defaults of transformers' DeepseekV2Config and DeepseekV3Config."""


def spec_from_config(config: Reader) -> Spec:
    """config.json of `deepseek_v2` and `deepseek_v3`."""
    label = config.text("model_type")
    rope_dim = config.size("qk_rope_head_dim", 64)
    # `head_dim` in these files is the rotary width qk_rope_head_dim; older files leave it out.
    config = config.changed(head_dim=rope_dim)
    sizes = sizes_from_config(config, DEFAULTS[label], own_rope_keys=("mscale_all_dim",))
    layout: Literal["half", "interleaved"] = "interleaved" if label == V2 or config.flag("rope_interleave", True) else "half"
    nope_dim = config.size("qk_nope_head_dim", 128)
    attention = LatentAttention(
        d_model=sizes.d_model,
        n_heads=sizes.n_heads,
        q_rank=config.size_or_none("q_lora_rank", 1536),
        kv_rank=config.size("kv_lora_rank", 512),
        nope_dim=nope_dim,
        rope=replace(sizes.rope, layout=layout),
        v_dim=config.size("v_head_dim", 128),
        scale=_scale(config, sizes, nope_dim + rope_dim),
        bias=config.flag("attention_bias", False),
    )
    dense = sizes.mlp(bias=label == V2 and config.flag("mlp_bias", False))
    mixture = _mixture(config, label, sizes, dense.bias)
    n_dense = config.count("first_k_dense_replace", {V2: 0, V3: 3}[label])
    config.must_be("moe_layer_freq", 1)
    config.must_be("num_key_value_heads", sizes.n_heads)
    key = "num_mtp_layers" if "num_mtp_layers" in config.values else "num_nextn_predict_layers"
    n_ahead = config.bounded(key, 0, least=0)
    config.finish(IRRELEVANT | {"qk_head_dim", "ep_size"})
    return build(sizes, label, attention, dense, mixture, n_dense, n_ahead)


def _scale(config: Reader, sizes: Sizes, q_dim: int) -> float:
    """The scale of scores: q_dim ** -0.5, or with YaRN and `mscale_all_dim` that of `yarn_scale`."""
    parameters = config.section("rope_parameters") or config.section("rope_scaling")
    mscale, scaling = parameters.real_or_none("mscale_all_dim") if parameters else None, sizes.rope.scaling
    if parameters is None or mscale is None or scaling is None:
        return float(q_dim**-0.5)
    if not isinstance(scaling, YarnScaling):
        raise parameters.fail("mscale_all_dim", mscale, "no such key, except with a rope_type of yarn")
    return yarn_scale(q_dim, scaling.factor, mscale)


def _mixture(config: Reader, label: str, sizes: Sizes, bias: bool) -> MixtureOfExperts:
    """The mixture of experts; `bias` is the shared expert's. V2's method `greedy` chooses among all experts, not in groups."""
    n_groups, top_groups, renormalise = (1, 1, False) if label == V2 else (8, 4, True)
    method = config.text("topk_method", "greedy" if label == V2 else "noaux_tc")
    if method not in (expected := ("greedy", "group_limited_greedy") if label == V2 else ("noaux_tc",)):
        raise config.fail("topk_method", method, f"one of {', '.join(expected)}")
    config.must_be("scoring_func", "softmax" if label == V2 else "sigmoid")
    n_groups, top_groups = config.size("n_group", n_groups), config.size("topk_group", top_groups)
    renormalise = config.flag("norm_topk_prob", renormalise)
    groups = {"n_groups": n_groups, "top_groups": top_groups} if method != "greedy" else {}
    router = Router(
        n_experts=config.bounded("n_routed_experts", config.bounded("num_local_experts", {V2: 64, V3: 256}[label])),
        top_k=config.size("num_experts_per_tok", {V2: 6, V3: 8}[label]),
        scale=config.real("routed_scaling_factor", {V2: 1.0, V3: 2.5}[label]),
        **scoring(label, renormalise),
        **groups,
    )
    d_expert = config.size("moe_intermediate_size", {V2: 1407, V3: 2048}[label])
    n_shared = config.size("n_shared_experts", {V2: 2, V3: 1}[label])
    return MixtureOfExperts(
        d_model=sizes.d_model,
        router=router,
        expert=sizes.mlp(d_ff=d_expert),
        shared=sizes.mlp(d_ff=n_shared * d_expert, bias=bias),
    )


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    label, attention, dense = spec.architecture, leaves(spec, LatentAttention)[0], leaves(spec, FeedForward)
    prefix, mlp = {V2: "DeepseekV2", V3: "DeepseekV3"}[label], feedforwards(spec)[0]
    mscale, scaling = mscale_of(attention), attention.rope.scaling
    mscales = {} if mscale is None else {"mscale_all_dim": mscale}
    if mscales and isinstance(scaling, YarnScaling) and scaling.attention_factor == 1.0:
        mscales["mscale"] = mscales["mscale_all_dim"]  # for readers that do not know `attention_factor`
    config: dict[str, Any] = {
        "architectures": [f"{prefix}ForCausalLM" if spec.head else f"{prefix}Model"],
        "model_type": label,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_heads,
        "hidden_act": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.context,
        "rms_norm_eps": leaves(spec, Norm)[0].eps,
        "tie_word_embeddings": spec.tied,
        "q_lora_rank": attention.q_rank,
        "kv_lora_rank": attention.kv_rank,
        "qk_nope_head_dim": attention.nope_dim,
        "qk_rope_head_dim": attention.rope.dim,
        "v_head_dim": attention.v_dim,
        "attention_bias": attention.bias,
        "rope_parameters": parameters_from_rope(attention.rope, attention.rope.dim) | mscales,
        "first_k_dense_replace": len(dense),
    }
    own: dict[str, dict[str, Any]] = {
        V2: {"mlp_bias": mlp.bias},
        V3: {"rope_interleave": attention.rope.layout == "interleaved", "num_nextn_predict_layers": len(spec.ahead)},
    }
    mixtures = leaves(spec, MixtureOfExperts)
    return config | own[label] | (_config_from_mixture(mixtures[0], label) if mixtures else {})


def _config_from_mixture(mixture: MixtureOfExperts, label: str) -> dict[str, Any]:
    """The inverse of `_mixture`."""
    assert isinstance(mixture.expert, FeedForward), "DeepSeek's experts are not mixtures"
    assert mixture.shared is not None, "DeepSeek has shared experts"
    router = mixture.router
    config = {
        "moe_intermediate_size": mixture.expert.d_ff,
        "n_routed_experts": router.n_experts,
        "n_shared_experts": mixture.shared.d_ff // mixture.expert.d_ff,
        "num_experts_per_tok": router.top_k,
        "routed_scaling_factor": router.scale,
        "n_group": router.n_groups,
        "topk_group": router.top_groups,
    }
    if label == V2:
        method = "group_limited_greedy" if router.n_groups > 1 else "greedy"
        return config | {"topk_method": method, "mlp_bias": mixture.shared.bias}
    return config | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "norm_topk_prob": router.renormalise}


def names(spec: Spec, stacked: bool = False) -> Names:
    """Hugging Face's names; `stacked`: with the experts of a layer in one tensor, as in transformers 5's modules."""
    layer, theirs = llama.NAMES.table, "model.layers.{}"
    table: experts.Table = {
        **{key: value for key, value in layer.items() if str(key)[-2:] not in (".k", ".v")},
        "layers.{}.attention.q_down": f"{theirs}.self_attn.q_a_proj",
        "layers.{}.attention.q_norm": f"{theirs}.self_attn.q_a_layernorm",
        "layers.{}.attention.q_up": f"{theirs}.self_attn.q_b_proj",
        "layers.{}.attention.kv_down": f"{theirs}.self_attn.kv_a_proj_with_mqa",
        "layers.{}.attention.kv_norm": f"{theirs}.self_attn.kv_a_layernorm",
        KV_UP: As(f"{theirs}.self_attn.kv_b_proj", kv_by_head(spec)),
        "layers.{}.mlp.router": f"{theirs}.mlp.gate",
        "layers.{}.mlp.router.choice_bias": f"{theirs}.mlp.gate.e_score_correction_bias",
        **{f"layers.{{}}.mlp.shared.{p}": f"{theirs}.mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")},
        **(
            experts.stacked(f"{theirs}.mlp.experts")
            if stacked
            else experts.separate(f"{theirs}.mlp.experts.{{}}", "gate_proj", "up_proj", "down_proj")
        ),
    }
    mtp_layers: experts.Table = {_mtp_key(key): value for key, value in table.items() if "{}" in str(key)}
    return replace(
        llama.NAMES,
        table={
            **table,
            **mtp_layers,
            "ahead.{}.embedding_norm": f"{theirs}.enorm",
            "ahead.{}.hidden_norm": f"{theirs}.hnorm",
            "ahead.{}.join": f"{theirs}.eh_proj",
            "ahead.{}.norm": f"{theirs}.shared_head.norm",
        },
        ignored={
            **llama.NAMES.ignored,
            r"model\.layers\.\d+\.(embed_tokens|shared_head\.head)\.weight": "a copy of the model's own",
        },
        offsets={"ahead": spec.n_layers},
    )


def _mtp_key(key: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """The key of the same tensor in a module for multi-token prediction."""
    parts = tuple(part.replace("layers.{}", "ahead.{}") for part in (key if isinstance(key, tuple) else (key,)))
    return parts if isinstance(key, tuple) else parts[0]


FAMILY = Family(
    name="deepseek",
    title="DeepSeek",
    members="DeepSeek V2, V2-Lite, V3, R1, R1-Zero",
    model_types=(V2, V3),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
    layouts=lambda spec: (names(spec, stacked=True),),
    gguf=DEEPSEEK2,
    prompts=("deepseek-v3.1", "deepseek-r1", "deepseek-v3", "deepseek-v2"),
)
