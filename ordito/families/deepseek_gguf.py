"""DeepSeek in GGUF files, whose metadata describe MLA as multi-query attention over the latent (k_up and v_up absorbed)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import leaves, metadata_value
from ordito.families.decoder import Sizes
from ordito.families.deepseek_shape import KV_UP, V2, V3, build, kv_by_head, mscale_of, scoring, yarn_scale
from ordito.families.family import GGUF, Header
from ordito.families.naming import As, Composed, Names, Reshaped, Transposed
from ordito.families.rope import metadata_from_rope, rope_from_header
from ordito.spec import FeedForward, LatentAttention, MixtureOfExperts, Norm, Router, Spec, YarnScaling

SOFTMAX, SIGMOID = 1, 2
"""`expert_gating_func`."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `deepseek2`, of older files (keys and values per head) and newer ones (MLA as multi-query attention)."""
    reader = header.reader()
    context, n_heads = reader.size("context_length"), reader.size("attention.head_count")
    kv_rank, rope_dim = reader.size("attention.kv_lora_rank"), reader.size("rope.dimension_count")
    reader.get("attention.head_count_kv", None)
    key, value = reader.size("attention.key_length"), reader.size("attention.value_length")
    key, value = reader.size("attention.key_length_mla", key), reader.size("attention.value_length_mla", value)
    log_multiplier = reader.real_or_none("rope.scaling.yarn_log_multiplier")
    rope, scale = rope_from_header(header, reader, rope_dim, context), key**-0.5
    if isinstance(rope.scaling, YarnScaling) and log_multiplier:
        scale = yarn_scale(key, rope.scaling.factor, round(10 * log_multiplier, 6))
        rope = replace(rope, scaling=replace(rope.scaling, attention_factor=1.0))
    sizes = Sizes(
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=reader.size("embedding_length"),
        n_layers=reader.bounded("block_count"),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=key,
        d_ff=reader.size("feed_forward_length"),
        context=context,
        eps=reader.real("attention.layer_norm_rms_epsilon"),
        rope=replace(rope, layout="interleaved"),
        tied="output.weight" not in header.shapes,
    )
    attention = LatentAttention(
        d_model=sizes.d_model,
        n_heads=n_heads,
        q_rank=reader.size("attention.q_lora_rank", None),
        kv_rank=kv_rank,
        nope_dim=key - rope_dim,
        rope=sizes.rope,
        v_dim=value,
        scale=scale,
    )
    # A file without the key is V2's, unless it has V3's biases on the choice of experts.
    default = SIGMOID if any(name.endswith(".exp_probs_b.bias") for name in header.shapes) else SOFTMAX
    label = V3 if reader.size("expert_gating_func", default) == SIGMOID else V2
    router = Router(
        **experts.counts_from_header(reader),
        scale=reader.real_or_none("expert_weights_scale", 1.0) or 1.0,
        n_groups=reader.count("expert_group_count", 1) or 1,
        top_groups=reader.count("expert_group_used_count", 1) or 1,
        **scoring(label, reader.flag("expert_weights_norm", False)),
    )
    d_expert = reader.size("expert_feed_forward_length")
    shared = sizes.mlp(d_ff=d_expert * reader.size("expert_shared_count"))
    mixture = MixtureOfExperts(d_model=sizes.d_model, router=router, expert=sizes.mlp(d_ff=d_expert), shared=shared)
    n_dense = reader.count("leading_dense_block_count", 0)
    reader.must_be("nextn_predict_layers", 0)
    reader.finish({"vocab_size"})
    return build(sizes, label, attention, sizes.mlp(), mixture, n_dense)


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`. Raises `ConfigError` for a spec that llama.cpp would compute differently."""
    attention, mixtures = leaves(spec, LatentAttention)[0], leaves(spec, MixtureOfExperts)
    metadata_value(bool(mixtures), True, "a model without experts")
    metadata_value(len(spec.ahead), 0, "multi-token prediction")
    metadata_value(leaves(spec, Norm)[0].eps, attention.norm_eps, "another epsilon of the norms inside attention")
    scaling, rope, mscale = attention.rope.scaling, metadata_from_rope(attention.rope), mscale_of(attention)
    if isinstance(scaling, YarnScaling):
        metadata_value(scaling.attention_factor, 1.0, "YaRN's attention factor")
    else:
        metadata_value(scaling, None, "a rope scaling other than YaRN")
    if mscale is not None:
        rope |= {"rope.scaling.yarn_log_multiplier": 0.1 * mscale}
        rope.pop("rope.scaling.attn_factor")  # llama.cpp would multiply the two
    mixture, router, dense = mixtures[0], mixtures[0].router, leaves(spec, FeedForward)
    assert isinstance(mixture.expert, FeedForward), "DeepSeek's experts are not mixtures"
    assert mixture.shared is not None, "DeepSeek has shared experts"
    return {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": (dense or [mixture.expert])[0].d_ff,
        "attention.head_count": attention.n_heads,
        "attention.head_count_kv": 1,
        "attention.layer_norm_rms_epsilon": leaves(spec, Norm)[0].eps,
        "attention.kv_lora_rank": attention.kv_rank,
        **({"attention.q_lora_rank": attention.q_rank} if attention.q_rank else {}),
        "attention.key_length": attention.kv_rank + attention.rope.dim,
        "attention.value_length": attention.kv_rank,
        "attention.key_length_mla": attention.q_dim,
        "attention.value_length_mla": attention.v_dim,
        **rope,
        **experts.metadata_from_experts(spec),
        "expert_shared_count": mixture.shared.d_ff // mixture.expert.d_ff,
        "expert_weights_scale": router.scale,
        "expert_weights_norm": router.renormalise,
        "expert_gating_func": SIGMOID if router.score == "sigmoid" else SOFTMAX,
        "expert_group_count": router.n_groups,
        "expert_group_used_count": router.top_groups,
        "leading_dense_block_count": len(dense),
    }


def names(spec: Spec, fused: bool = False) -> Names:
    """GGUF's names: k_up (N, R, nope), transposed in each head, and v_up (N, v, R); `fused`: both in `attn_kv_b`, as in older
    files."""
    attention = leaves(spec, LatentAttention)[0]
    heads, nope, value, rank = attention.n_heads, attention.nope_dim, attention.v_dim, attention.kv_rank
    keys = Composed(Transposed(), Reshaped((heads * nope, rank), (heads, nope, rank)))
    values = Reshaped((heads * value, rank), (heads, value, rank))
    separate: experts.Table = {KV_UP[0]: As("blk.{}.attn_k_b", keys), KV_UP[1]: As("blk.{}.attn_v_b", values)}
    table: experts.Table = {
        **llama.GGUF_NAMES.table,
        "layers.{}.attention.q_down": "blk.{}.attn_q_a",
        "layers.{}.attention.q_norm": "blk.{}.attn_q_a_norm",
        "layers.{}.attention.q_up": "blk.{}.attn_q_b",
        "layers.{}.attention.kv_down": "blk.{}.attn_kv_a_mqa",
        "layers.{}.attention.kv_norm": "blk.{}.attn_kv_a_norm",
        **({KV_UP: As("blk.{}.attn_kv_b", kv_by_head(spec))} if fused else separate),
        **experts.gguf_names(spec),
    }
    return Names(table)


DEEPSEEK2 = GGUF(
    architectures=("deepseek2",),
    spec_from_header=spec_from_header,
    metadata_from_spec=metadata_from_spec,
    names=names,
    label=lambda spec: "deepseek2",
    layouts=lambda spec: (names(spec, fused=True),),
)
