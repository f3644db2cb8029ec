"""Qwen 1.5, 2, 2.5 and 3, dense and mixtures of experts; Qwen3-Embedding; DeepSeek-R1's distillations to Qwen.

LLaMA's layers with biases on the query, key and value projections; Qwen 3 drops these and adds QK-norm: an RMSNorm on each
head's queries and keys, before the rotation. Mixtures of 1.5 and 2 have a shared expert, scaled by a sigmoid gate; those of 3
have none. Sources: arXiv:2309.16609, 2407.10671 (section 2.2), 2505.09388 (section 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import (
    QKV_BIAS,
    QKVO_BIAS,
    SLIDING,
    layer_types,
    layers_with,
    leaves,
    metadata_value,
    widest_window,
    windows_from_config,
)
from ordito.families.decoder import (
    Sizes,
    config_from_sizes,
    metadata_from_sizes,
    partly_rotated,
    sizes_from_config,
    sizes_from_header,
)
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, Block, FeedForward, MixtureOfExperts, Router, Spec

COMMON = {"vocab_size": 151936, "max_position_embeddings": 32768}
DENSE = COMMON | {"hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32}
SPARSE = COMMON | {"hidden_size": 2048, "num_hidden_layers": 24}
DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen2": DENSE | {"num_key_value_heads": 32},
    "qwen2_moe": SPARSE | {"intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16},
    "qwen3": DENSE | {"num_key_value_heads": 32, "head_dim": 128},
    "qwen3_moe": SPARSE | {"intermediate_size": 6144, "num_attention_heads": 32, "num_key_value_heads": 4},
}
"""Defaults of transformers' Qwen2Config, Qwen2MoeConfig, Qwen3Config and Qwen3MoeConfig."""
EXPERTS = {
    "qwen2_moe": {"n_experts": 60, "top_k": 4, "d_expert": 1408},
    "qwen3_moe": {"n_experts": 128, "top_k": 8, "d_expert": 768},
}
"""The same classes' defaults for the experts."""
CLASSES = {"qwen2": "Qwen2", "qwen2_moe": "Qwen2Moe", "qwen3": "Qwen3", "qwen3_moe": "Qwen3Moe"}


def build_attention(sizes: Sizes, label: str, bias: tuple[str, ...], window: int | None = None) -> Attention:
    """The attention of one layer: with QK-norm in Qwen 3."""
    qk_norm = label.startswith("qwen3")
    norms = {name: sizes.norm(name, sizes.head_dim) for name in ("q_norm", "k_norm")} if qk_norm else {}
    return sizes.attention(bias=bias, window=window, **norms)


def build_mixture(sizes: Sizes, router: Router, d_expert: int, d_shared: int | None) -> MixtureOfExperts:
    """Routed experts of width `d_expert` and, unless `d_shared` is None, a gated shared expert of that width."""
    return MixtureOfExperts(
        d_model=sizes.d_model,
        router=router,
        expert=sizes.mlp(d_ff=d_expert),
        shared=sizes.mlp(d_ff=d_shared) if d_shared else None,
        shared_gate=d_shared is not None,
    )


def spec_from_config(config: Reader) -> Spec:
    """config.json of `qwen2`, `qwen2_moe`, `qwen3` and `qwen3_moe`."""
    label = config.text("model_type")
    sizes = sizes_from_config(config, DEFAULTS[label])
    windows = _windows(config, label, sizes.n_layers)
    if label == "qwen2":
        bias: tuple[str, ...] = QKV_BIAS
    elif label == "qwen2_moe":
        bias = QKV_BIAS if config.flag("qkv_bias", True) else ()
    else:
        bias = QKVO_BIAS if config.flag("attention_bias", False) else ()
    mlps: list[Block] = [sizes.mlp()] * sizes.n_layers
    if label in EXPERTS:
        mixture = _mixture(config, label, sizes)
        mlps = [mixture if sparse else mlp for sparse, mlp in zip(_sparse_layers(config, sizes.n_layers), mlps, strict=True)]
    config.finish(IRRELEVANT)
    attentions = [build_attention(sizes, label, bias, window) for window in windows]
    return sizes.spec(label, [sizes.layer(attention, mlp) for attention, mlp in zip(attentions, mlps, strict=True)])


def _windows(config: Reader, label: str, n_layers: int) -> tuple[int | None, ...]:
    """The sliding window of each layer, used only if `use_sliding_window` says so.

    Which layers have one depends on the class of transformers: all of them in qwen3_moe, every second of the first
    `max_window_layers` in qwen2_moe, and those from `max_window_layers` on in the dense classes.
    """
    width = config.size_or_none("sliding_window", 4096)
    window = width if config.flag("use_sliding_window", False) else None
    bound = config.count("max_window_layers", 28)
    if label == "qwen3_moe":
        return (window,) * n_layers
    if label == "qwen2_moe":
        return windows_from_config(config, n_layers, window, lambda i: i % 2 == 0 and i < bound)
    return windows_from_config(config, n_layers, window, lambda i: i >= bound)


def _sparse_layers(config: Reader, n_layers: int) -> list[bool]:
    """Which layers are mixtures of experts: every `decoder_sparse_step`-th, except those in `mlp_only_layers`."""
    step, dense = config.size("decoder_sparse_step", 1), config.items("mlp_only_layers", [])
    return [(i + 1) % step == 0 and i not in dense for i in range(n_layers)]


def _mixture(config: Reader, label: str, sizes: Sizes) -> MixtureOfExperts:
    default = EXPERTS[label]
    router = Router(
        n_experts=config.bounded("num_experts", config.bounded("num_local_experts", default["n_experts"])),
        top_k=config.size("num_experts_per_tok", default["top_k"]),
        renormalise=config.flag("norm_topk_prob", False),
    )
    d_shared = config.size("shared_expert_intermediate_size", 5632) if label == "qwen2_moe" else None
    return build_mixture(sizes, router, config.size("moe_intermediate_size", default["d_expert"]), d_shared)


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    label, bias, kinds = spec.architecture, leaves(spec, Attention)[0].bias, layer_types(spec)
    config = config_from_sizes(spec, CLASSES[label]) | {
        "use_sliding_window": SLIDING in kinds,
        "sliding_window": widest_window(spec) or 4096,
        **({} if label == "qwen3_moe" else {"layer_types": kinds}),
        **({"decoder_sparse_step": 1, "mlp_only_layers": layers_with(spec, FeedForward)} if label in EXPERTS else {}),
        **({"qkv_bias": bool(bias)} if label == "qwen2_moe" else {}),
        **({"attention_bias": bool(bias)} if label.startswith("qwen3") else {}),
    }
    for mixture in leaves(spec, MixtureOfExperts)[:1]:
        assert isinstance(mixture.expert, FeedForward), "Qwen's experts are not mixtures"
        config |= {
            "num_experts": mixture.router.n_experts,
            "num_experts_per_tok": mixture.router.top_k,
            "moe_intermediate_size": mixture.expert.d_ff,
            "norm_topk_prob": mixture.router.renormalise,
            **({"shared_expert_intermediate_size": mixture.shared.d_ff} if mixture.shared else {}),
        }
    return config


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `qwen2`, `qwen2moe`, `qwen3` and `qwen3moe`."""
    label = header.architecture.replace("moe", "_moe")
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    reader.get("pooling_type", None)  # Qwen3-Embedding: last-token pooling
    biased = "blk.0.attn_q.bias" in header.shapes or "blk.0.attn_qkv.bias" in header.shapes
    bias = () if not biased else QKVO_BIAS if "blk.0.attn_output.bias" in header.shapes else QKV_BIAS
    mlp: Block = sizes.mlp()
    if label in EXPERTS:
        router = Router(**experts.counts_from_header(reader), renormalise=label == "qwen3_moe")
        d_shared = reader.size("expert_shared_feed_forward_length", 5632) if label == "qwen2_moe" else None
        mlp = build_mixture(sizes, router, reader.size("expert_feed_forward_length"), d_shared)
    reader.finish()
    return sizes.spec(label, [sizes.layer(build_attention(sizes, label, bias), mlp)] * sizes.n_layers)


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    if spec.architecture not in EXPERTS:
        return metadata_from_sizes(spec)
    metadata_value(bool(leaves(spec, MixtureOfExperts)), True, "a model without experts")
    mixture = leaves(spec, MixtureOfExperts)[0]
    metadata_value(mixture.router.renormalise, spec.architecture == "qwen3_moe", "the renormalisation of experts' weights")
    shared = {"expert_shared_feed_forward_length": mixture.shared.d_ff} if mixture.shared else {}
    return metadata_from_sizes(spec) | experts.metadata_from_experts(spec) | shared


NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        "layers.{}.attention.q_norm": "model.layers.{}.self_attn.q_norm",
        "layers.{}.attention.k_norm": "model.layers.{}.self_attn.k_norm",
        "layers.{}.mlp.router": "model.layers.{}.mlp.gate",
        **experts.separate("model.layers.{}.mlp.experts.{}", "gate_proj", "up_proj", "down_proj"),
        **{f"layers.{{}}.mlp.shared.{p}": f"model.layers.{{}}.mlp.shared_expert.{p}_proj" for p in ("gate", "up", "down")},
        "layers.{}.mlp.shared_gate": "model.layers.{}.mlp.shared_expert_gate",
    },
)
IN_MEMORY = replace(NAMES, table={**NAMES.table, **experts.stacked("model.layers.{}.mlp.experts")})
"""The names of transformers 5's modules, which adapters and some checkpoints follow."""


def gguf_names(spec: Spec) -> Names:
    """GGUF's names. Rotary pairs are not interleaved as in GGUF's `llama`, so that no rows are permuted."""
    norms: experts.Table = {f"layers.{{}}.attention.{n}_norm": f"blk.{{}}.attn_{n}_norm" for n in "qk"}
    return Names({**llama.GGUF_NAMES.table, **norms, **experts.gguf_names(spec)})


FAMILY = Family(
    name="qwen",
    title="Qwen",
    members="Qwen 1.5, 2, 2.5, 3; Qwen1.5-MoE, Qwen2-57B-A14B, Qwen3-MoE; Qwen3-Embedding; R1 distills to Qwen",
    model_types=tuple(CLASSES),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    layouts=lambda spec: (IN_MEMORY,),
    gguf=GGUF(
        architectures=tuple(label.replace("_", "") for label in CLASSES),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=gguf_names,
        label=lambda spec: spec.architecture.replace("_", ""),
        caveat=partly_rotated,
    ),
    prompts=("qwen3", "qwen2.5", "qwen2"),
)
