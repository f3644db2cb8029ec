"""DeepSeekMoE 16B.

LLaMA's layers; all but the first have a mixture of many small routed experts (fine-grained expert segmentation) and shared
experts that process every token (shared expert isolation). transformers has no class of it: the published code comes with the
checkpoint. Source: arXiv:2401.06066, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import QKVO_BIAS, leaves, metadata_value
from ordito.families.decoder import (
    Sizes,
    config_from_sizes,
    feedforwards,
    metadata_from_sizes,
    sizes_from_config,
    sizes_from_header,
)
from ordito.families.family import GGUF, Family, Header
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, FeedForward, MixtureOfExperts, Router, Spec

DEFAULTS = {"vocab_size": 102400, "max_position_embeddings": 2048}


def build(sizes: Sizes, *, bias: bool, n_dense: int, router: Router, d_expert: int, n_shared: int) -> Spec:
    """The spec: `n_dense` layers with a dense feed-forward, then layers with routed and `n_shared` shared experts.

    The shared experts are one of their joint width, which computes the same.
    """
    attention, expert = sizes.attention(bias=QKVO_BIAS if bias else ()), sizes.mlp(d_ff=d_expert)
    shared = sizes.mlp(d_ff=n_shared * d_expert) if n_shared else None
    mixture = MixtureOfExperts(d_model=sizes.d_model, router=router, expert=expert, shared=shared)
    plain, sparse = sizes.layer(attention, sizes.mlp()), sizes.layer(attention, mixture)
    return sizes.spec("deepseek", [plain if i < n_dense else sparse for i in range(sizes.n_layers)])


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: deepseek`."""
    sizes = sizes_from_config(config, DEFAULTS)
    config.must_be("moe_layer_freq", 1)
    config.must_be("scoring_func", "softmax")
    top_k = config.size("num_experts_per_tok")
    n_dense = config.count("first_k_dense_replace", 0)
    if n_dense >= sizes.n_layers:
        raise config.fail("first_k_dense_replace", n_dense, f"fewer than the {sizes.n_layers} layers")
    # The published code renormalises the weights only if more than one expert is chosen.
    renormalise = config.flag("norm_topk_prob", False) and top_k > 1
    spec = build(
        sizes,
        bias=config.flag("attention_bias", False),
        n_dense=n_dense,
        router=Router(n_experts=config.bounded("n_routed_experts"), top_k=top_k, renormalise=renormalise),
        d_expert=config.size("moe_intermediate_size", 1407),
        n_shared=config.count("n_shared_experts", 0),
    )
    config.finish(IRRELEVANT)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    dense, mixture = leaves(spec, FeedForward), leaves(spec, MixtureOfExperts)[0]
    d_expert = feedforwards(spec)[-1].d_ff
    return config_from_sizes(spec, "Deepseek") | {
        "attention_bias": bool(leaves(spec, Attention)[0].bias),
        "first_k_dense_replace": len(dense),
        "n_routed_experts": mixture.router.n_experts,
        "num_experts_per_tok": mixture.router.top_k,
        "norm_topk_prob": mixture.router.renormalise,
        "scoring_func": "softmax",
        "moe_intermediate_size": d_expert,
        "n_shared_experts": mixture.shared.d_ff // d_expert if mixture.shared else 0,
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of architecture `deepseek`."""
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    reader.must_be("expert_weights_scale", 1.0)
    spec = build(
        sizes,
        bias="blk.0.attn_q.bias" in header.shapes,
        n_dense=reader.count("leading_dense_block_count", 0),
        router=Router(**experts.counts_from_header(reader)),
        d_expert=reader.size("expert_feed_forward_length"),
        n_shared=reader.count("expert_shared_count"),
    )
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    mixture = leaves(spec, MixtureOfExperts)[0]
    metadata_value(mixture.router.renormalise, False, "the renormalisation of experts' weights")
    return metadata_from_sizes(spec) | experts.metadata_from_experts(spec) | {
        "leading_dense_block_count": len(leaves(spec, FeedForward)),
        "expert_shared_count": mixture.shared.d_ff // feedforwards(spec)[-1].d_ff if mixture.shared else 0,
        "expert_weights_scale": 1.0,
    }  # fmt: skip


NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        "layers.{}.mlp.router": "model.layers.{}.mlp.gate",
        **{f"layers.{{}}.mlp.shared.{p}": f"model.layers.{{}}.mlp.shared_experts.{p}_proj" for p in ("gate", "up", "down")},
        **experts.separate("model.layers.{}.mlp.experts.{}", "gate_proj", "up_proj", "down_proj"),
    },
)

FAMILY = Family(
    name="deepseek_moe",
    title="DeepSeekMoE",
    members="DeepSeekMoE 16B",
    model_types=("deepseek",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("deepseek",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: replace(llama.GGUF_NAMES, table={**llama.GGUF_NAMES.table, **experts.gguf_names(spec)}),
    ),
    prompts=("deepseek-v2",),
)
