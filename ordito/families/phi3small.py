"""Phi-3-small, of which transformers has no class: the published code comes with the checkpoint.

Every second layer has block-sparse attention: a head attends to the newest blocks of keys and to every eighth of the older
ones, with another offset in each head. LayerNorms, biases everywhere, a GELU gate clamped at a limit, and factors of maximal
update parametrisation (muP) on embeddings, scores and logits. Sources: arXiv:2404.14219, section 2, and that code.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

from ordito.families.config import QKVO_BIAS, head_size, leaves
from ordito.families.decoder import Sizes
from ordito.families.family import Family
from ordito.families.naming import GATE_UP, QKV, As, Interleaved, Names, Permuted
from ordito.families.phi import LAYER_NORM
from ordito.families.phi3 import MSCALES, mscales_of, with_mscales
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import parameters_from_rope, rope_from_parameters
from ordito.spec import Attention, BlockSparse, FeedForward, Head, LongRopeScaling, Norm, Rope, Spec

IRRELEVANT_HERE = IRRELEVANT | frozenset(
    """attention_dropout_prob embedding_dropout_prob ffn_dropout_prob blocksparse_triton_kernel_block_size gegelu_pad_to_256
    ff_dim_multiplier pad_sequence_to_multiple_of_64 reorder_and_upcast_attn hidden_act attention_bias""".split()
)


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: phi3small`."""
    d_model, n_heads = config.size("hidden_size", 4096), config.size("num_attention_heads", 32)
    context, head_dim = config.size("max_position_embeddings", 8192), head_size(config, d_model, n_heads)
    sizes = Sizes(
        vocab_size=config.size("vocab_size", 100352),
        d_model=d_model,
        n_layers=config.bounded("num_hidden_layers", 32),
        n_heads=n_heads,
        n_kv_heads=config.size("num_key_value_heads", 8),
        head_dim=head_dim,
        d_ff=config.size("ff_intermediate_size", 14336),
        context=context,
        eps=config.real("layer_norm_epsilon", 1e-5),
        rope=_rope(config, head_dim, context),
        activation="gelu_sigmoid",
        tied=True,
        norms=LAYER_NORM,
        embedding_scale=config.real("mup_embedding_multiplier", 10.0),
    )
    config.must_be("rope_position_scale", 1.0)
    config.must_be("blocksparse_homo_head_pattern", False)
    sparse = BlockSparse(
        block=config.size("blocksparse_block_size", 64),
        local=config.size("blocksparse_num_local_blocks", 16),
        stride=config.size("blocksparse_vert_stride", 8),
    )
    multiplier = config.real("mup_attn_multiplier", 1.0)
    scale = multiplier / head_dim if config.flag("mup_use_scaling", True) else head_dim**-0.5
    dense_every = config.size("dense_attention_every_n_layers", 2)
    mlp = sizes.mlp(bias=True, limit=config.real("gegelu_limit", 20.0), up_offset=1.0)
    layers = [
        sizes.layer(sizes.attention(bias=QKVO_BIAS, scale=scale, block_sparse=block_sparse), mlp)
        for block_sparse in (None if (i + 1) % dense_every == 0 else sparse for i in range(sizes.n_layers))
    ]
    unused = tuple(config.items("dummy_token_indices", ()))
    spec = sizes.spec("phi3small", layers, scale=1 / config.real("mup_width_multiplier", 8.0), unused=unused)
    config.finish(IRRELEVANT_HERE)
    return spec


def _rope(config: Reader, head_dim: int, context: int) -> Rope:
    theta = config.real("rope_embedding_base", 1e6)
    scaling = config.section("rope_scaling")
    if scaling is None:
        return Rope(dim=head_dim, theta=theta)
    rope = rope_from_parameters(scaling, head_dim, context, context, theta, own_keys=MSCALES)
    if not isinstance(rope.scaling, LongRopeScaling):
        raise config.fail("rope_scaling", dict(scaling.values), "LongRoPE's lists, the only form of this family")
    return with_mscales(rope, *(scaling.real(key, rope.scaling.attention_factor) for key in MSCALES))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, mlp, norm, head = leaves(spec, Attention), leaves(spec, FeedForward)[0], leaves(spec, Norm)[0], spec.head
    first = attentions[0]
    assert first.rope is not None, "Phi-3-small has rotary positions"
    assert isinstance(head, Head), "Phi-3-small has a head"
    sparse = next((a.block_sparse for a in attentions if a.block_sparse), BlockSparse(block=64, local=16, stride=8))
    dense = [i for i, attention in enumerate(attentions) if attention.block_sparse is None]
    scaling = first.rope.scaling
    config = {
        "architectures": ["Phi3SmallForCausalLM"],
        "model_type": "phi3small",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": first.n_heads,
        "num_key_value_heads": first.n_kv_heads,
        "ff_intermediate_size": mlp.d_ff,
        "gegelu_limit": mlp.limit,
        "max_position_embeddings": spec.context,
        "layer_norm_epsilon": norm.eps,
        "rope_embedding_base": first.rope.theta,
        "blocksparse_block_size": sparse.block,
        "blocksparse_num_local_blocks": sparse.local,
        "blocksparse_vert_stride": sparse.stride,
        "dense_attention_every_n_layers": dense[0] + 1 if dense else spec.n_layers + 1,
        "mup_use_scaling": True,
        "mup_attn_multiplier": first.scale * first.head_dim,
        "mup_embedding_multiplier": spec.embedding.scale,
        "mup_width_multiplier": 1 / head.scale,
        "dummy_token_indices": list(head.unused),
    }
    if isinstance(scaling, LongRopeScaling):
        config["rope_scaling"] = parameters_from_rope(first.rope, first.head_dim) | mscales_of(scaling)
    return config


def grouped(attention: Attention) -> Permuted:
    """The rows of the fused QKV are ordered by key-value head: for each, its query heads, its key, its value."""
    groups, width = attention.n_kv_heads, attention.head_dim
    queries = attention.n_heads // groups
    block = (queries + 2) * width

    def rows(first: int, count: int) -> chain[int]:
        return chain.from_iterable(range(g * block + first * width, g * block + (first + count) * width) for g in range(groups))

    return Permuted(lambda: [*rows(0, queries), *rows(queries, 1), *rows(queries + 1, 1)])


def names(spec: Spec) -> Names:
    """The names in the published checkpoints."""
    return Names(
        {
            "embedding.tokens": "model.embed_tokens",
            "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
            QKV: As("model.layers.{}.self_attn.query_key_value", grouped(leaves(spec, Attention)[0])),
            "layers.{}.attention.o": "model.layers.{}.self_attn.dense",
            "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
            GATE_UP: As("model.layers.{}.mlp.up_proj", Interleaved()),
            "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
            "norm": "model.final_layernorm",
            "head": "lm_head",
        },
        ignored={r".*\.rotary_emb\.inv_freq": "the rotary frequencies follow from the spec"},
    )


FAMILY = Family(
    name="phi3small",
    title="Phi 3 small",
    members="Phi-3-small 8k, 128k",
    model_types=("phi3small",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
    prompts=("phi-3",),
)
