"""LLaMA 1, 2, 3, 3.1, 3.2 (text) and the models of the same shape: SmolLM2, DeepSeek LLM, ANITA, LLaMAntino, ...

Pre-norm layers of grouped-query attention with rotary positions and a SiLU-gated feed-forward.
Sources: arXiv:2302.13971, 2307.09288, 2407.21783.
"""

from __future__ import annotations

from typing import Any

from ordito.families.config import ACTIVATIONS, PUBLISHED, has_head, leaves, metadata_value
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import InterleavedRope, Names, Transform
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import metadata_from_rope, parameters_from_rope, rope_from_config, rope_from_header
from ordito.spec import Activation, Attention, Chain, Embedding, FeedForward, Head, Norm, Residual, Rope, Spec, Stack


def build(
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    d_ff: int,
    context: int,
    eps: float,
    rope: Rope,
    tied: bool = False,
    head: bool = True,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    activation: Activation = "silu",
) -> Spec:
    """The spec of a LLaMA of these sizes."""

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="rms", d_model=d_model, eps=eps)

    attention = Attention(
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        bias=("q", "k", "v", "o") if attention_bias else (),
        rope=rope,
    )
    mlp = FeedForward(d_model=d_model, d_ff=d_ff, activation=activation, gated=True, bias=mlp_bias)
    layer = Chain(Residual(Chain(norm("attention_norm"), attention)), Residual(Chain(norm("mlp_norm"), mlp)))
    return Spec(
        architecture="llama",
        context=context,
        body=Chain(Embedding(vocab_size=vocab_size, d_model=d_model), Stack(layers=(layer,) * n_layers), norm("norm")),
        head=Head(d_model=d_model, vocab_size=vocab_size, tied=tied) if head else None,
    )


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: llama`; fields as in transformers' LlamaConfig."""
    d_model, n_heads = config.size("hidden_size"), config.size("num_attention_heads")
    context = config.size("max_position_embeddings", 2048)
    head_dim = config.size("head_dim", d_model // n_heads)
    config.must_be("rope_interleaved", False)
    spec = build(
        vocab_size=config.size("vocab_size"),
        d_model=d_model,
        n_layers=config.size("num_hidden_layers"),
        n_heads=n_heads,
        n_kv_heads=config.size("num_key_value_heads", n_heads),
        head_dim=head_dim,
        d_ff=config.size("intermediate_size"),
        context=context,
        eps=config.real("rms_norm_eps", 1e-6),
        rope=rope_from_config(config, head_dim, context),
        tied=config.flag("tie_word_embeddings", False),
        head=has_head(config),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        activation=config.choice("hidden_act", ACTIVATIONS, "silu"),
    )
    config.finish(IRRELEVANT)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    assert attention.rope is not None, "a LLaMA layer has rotary positions"
    return {
        "architectures": ["LlamaForCausalLM" if spec.head else "LlamaModel"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attention.n_heads,
        "num_key_value_heads": attention.n_kv_heads,
        "head_dim": attention.head_dim,
        "hidden_act": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.context,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": bool(isinstance(spec.head, Head) and spec.head.tied),
        "attention_bias": "q" in attention.bias,
        "mlp_bias": mlp.bias,
        "rope_parameters": parameters_from_rope(attention.rope, attention.head_dim),
    }


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of architecture `llama`. Biases and an untied head show in the list of tensors alone."""
    reader = header.reader()
    d_model, n_heads = reader.size("embedding_length"), reader.size("attention.head_count")
    context = reader.size("context_length")
    head_dim = reader.size("attention.key_length", d_model // n_heads)
    reader.must_be("attention.value_length", head_dim)
    reader.must_be("expert_count", 0)
    dim = reader.size("rope.dimension_count", head_dim)
    reader.get("vocab_size", None)
    spec = build(
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=d_model,
        n_layers=reader.size("block_count"),
        n_heads=n_heads,
        n_kv_heads=reader.size("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        d_ff=reader.size("feed_forward_length"),
        context=context,
        eps=reader.real("attention.layer_norm_rms_epsilon"),
        rope=rope_from_header(header, reader, dim, context),
        tied="output.weight" not in header.shapes,
        attention_bias="blk.0.attn_q.bias" in header.shapes,
        mlp_bias="blk.0.ffn_up.bias" in header.shapes,
    )
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    assert attention.rope is not None, "a LLaMA layer has rotary positions"
    metadata_value(mlp.activation, "silu", "the activation")
    return {
        "vocab_size": spec.vocab_size,
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": attention.n_heads,
        "attention.head_count_kv": attention.n_kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.value_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": norm.eps,
        **metadata_from_rope(attention.rope),
    }


def interleaved(spec: Spec, name: str) -> Transform | None:
    """GGUF's `llama` pairs rotary channels (2i, 2i + 1): the rows of every q and k change places."""
    attention = leaves(spec, Attention)[0]
    match name.split(".")[-2]:
        case "q":
            return InterleavedRope(attention.n_heads)
        case "k":
            return InterleavedRope(attention.n_kv_heads)
    return None


NAMES = Names(
    {
        "embedding.tokens": "model.embed_tokens",
        "layers.{}.attention_norm": "model.layers.{}.input_layernorm",
        "layers.{}.attention.q": "model.layers.{}.self_attn.q_proj",
        "layers.{}.attention.k": "model.layers.{}.self_attn.k_proj",
        "layers.{}.attention.v": "model.layers.{}.self_attn.v_proj",
        "layers.{}.attention.o": "model.layers.{}.self_attn.o_proj",
        "layers.{}.mlp_norm": "model.layers.{}.post_attention_layernorm",
        "layers.{}.mlp.gate": "model.layers.{}.mlp.gate_proj",
        "layers.{}.mlp.up": "model.layers.{}.mlp.up_proj",
        "layers.{}.mlp.down": "model.layers.{}.mlp.down_proj",
        "norm": "model.norm",
        "head": "lm_head",
    },
    aliases=((r"^(?=embed_tokens\.|layers\.|norm\.)", "model."),),
    ignored={r".*\.rotary_emb\.inv_freq": "the spec gives the frequencies"},
)

GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "layers.{}.attention_norm": "blk.{}.attn_norm",
        "layers.{}.attention.q": "blk.{}.attn_q",
        "layers.{}.attention.k": "blk.{}.attn_k",
        "layers.{}.attention.v": "blk.{}.attn_v",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.mlp_norm": "blk.{}.ffn_norm",
        "layers.{}.mlp.gate": "blk.{}.ffn_gate",
        "layers.{}.mlp.up": "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    },
    transform=interleaved,
    ignored={r"rope_freqs\.weight": "the spec holds the scaling that it gives"},
)

FAMILY = Family(
    name="llama",
    title="LLaMA",
    members="LLaMA 1, 2, 3, 3.1, 3.2 (text); SmolLM2",
    model_types=("llama",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("llama",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
    ),
    prompts=("llama-3", "chatml", "llama-2"),
)
