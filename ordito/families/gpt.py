"""GPT-1, GPT-2 and GPT-3.

Learned absolute positions, multi-head attention and plain GELU feed-forwards with biases, LayerNorms with biases, a tied head.
GPT-1 is post-norm; GPT-2 is pre-norm with a final norm. GPT-3, whose weights are not published, alternates dense layers with
layers of locally banded sparse attention. Sources: Radford et al. 2018 (section 4.1) and 2019 (section 2.3), arXiv:2005.14165
(section 2.1).
"""

from __future__ import annotations

from typing import Any

from ordito.families.config import ACTIVATIONS, PUBLISHED, QKVO_BIAS, head_size, leaves, metadata_value
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import QKV, As, Names, Transposed
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Activation, Attention, Chain, Embedding, FeedForward, Head, Norm, Residual, Spec, Stack

BASE_CLASSES = {"openai-gpt": "OpenAIGPTModel", "gpt2": "GPT2Model", "gpt3": "GPT3Model"}
VOCAB, POSITIONS = {"openai-gpt": 40478, "gpt2": 50257, "gpt3": 50257}, {"openai-gpt": 512, "gpt2": 1024, "gpt3": 2048}
BAND = 128
"""Tokens. The band of GPT-3's sparse layers, "similar to the Sparse Transformer", is not published: this is the Sparse
Transformer's on text (arXiv:1904.10509, section 7.2)."""
IRRELEVANT_HERE = IRRELEVANT | frozenset(
    """n_ctx reorder_and_upcast_attn summary_type summary_use_proj summary_activation summary_proj_to_labels
    summary_first_dropout""".split()
)


def build(
    *,
    label: str,
    vocab_size: int,
    d_model: int,
    n_heads: int,
    head_dim: int,
    d_ff: int,
    n_positions: int,
    eps: float,
    activation: Activation,
    scales: tuple[float, ...],
    bands: tuple[int | None, ...],
    tied: bool = True,
    head: bool = True,
) -> Spec:
    """The spec of a GPT of these sizes; `scales` (of scores) and `bands` (None: dense) have an entry for each layer."""

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="layer", d_model=d_model, eps=eps, bias=True)

    def layer(scale: float, band: int | None) -> Chain:
        attention = Attention(
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=head_dim,
            scale=scale,
            bias=QKVO_BIAS,
            window=band,
        )
        mlp = FeedForward(d_model=d_model, d_ff=d_ff, activation=activation, gated=False, bias=True)
        if label == "openai-gpt":
            return Chain(Residual(attention), norm("attention_norm"), Residual(mlp), norm("mlp_norm"))
        return Chain(Residual(Chain(norm("attention_norm"), attention)), Residual(Chain(norm("mlp_norm"), mlp)))

    embedding = Embedding(vocab_size=vocab_size, d_model=d_model, n_positions=n_positions)
    stack = Stack(layers=tuple(layer(scale, band) for scale, band in zip(scales, bands, strict=True)))
    return Spec(
        architecture=label,
        context=n_positions,
        body=Chain(embedding, stack) if label == "openai-gpt" else Chain(embedding, stack, norm("norm")),
        head=Head(d_model=d_model, vocab_size=vocab_size, tied=tied) if head else None,
    )


def spec_from_config(config: Reader) -> Spec:
    """config.json of `openai-gpt` and `gpt2`; and of `gpt3`, our own label: GPT-2's keys, `head_dim` and `attention_band`."""
    label = config.text("model_type")
    d_model, n_layers, n_heads = config.size("n_embd", 768), config.bounded("n_layer", 12), config.size("n_head", 12)
    head_dim = head_size(config, d_model, n_heads)
    bands = [None] * n_layers
    if label == "gpt3":
        head_dim, band = config.size("head_dim", head_dim), config.size("attention_band", BAND)
        bands = [band if i % 2 else None for i in range(n_layers)]
    scaled = label == "openai-gpt" or config.flag("scale_attn_weights", True)
    by_layer = label != "openai-gpt" and config.flag("scale_attn_by_inverse_layer_idx", False)
    scales = [(head_dim**-0.5 if scaled else 1.0) / (i + 1 if by_layer else 1) for i in range(n_layers)]
    if label == "openai-gpt":  # OpenAI's "gelu" is the tanh form
        activation = config.choice("afn", ACTIVATIONS | {"gelu": "gelu_tanh"}, "gelu")
    else:
        activation = config.choice("activation_function", ACTIVATIONS, "gelu_new")
    config.must_be("add_cross_attention", False)
    classes = config.items("architectures", None) or ["LMHeadModel"]
    spec = build(
        label=label,
        vocab_size=config.size("vocab_size", VOCAB[label]),
        d_model=d_model,
        n_heads=n_heads,
        head_dim=head_dim,
        d_ff=config.size("n_inner", 4 * d_model) if label != "openai-gpt" else 4 * d_model,
        n_positions=config.size("n_positions", POSITIONS[label]),
        eps=config.real("layer_norm_epsilon", 1e-5),
        activation=activation,
        scales=tuple(scales),
        bands=tuple(bands),
        tied=config.flag("tie_word_embeddings", True),
        head=classes[0] != BASE_CLASSES[label],
    )
    config.finish(IRRELEVANT_HERE)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    label, attentions = spec.architecture, leaves(spec, Attention)
    first, mlp, norm = attentions[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    config = {
        "architectures": [BASE_CLASSES[label].replace("Model", "LMHeadModel") if spec.head else BASE_CLASSES[label]],
        "model_type": label,
        "vocab_size": spec.vocab_size,
        "n_embd": spec.d_model,
        "n_layer": spec.n_layers,
        "n_head": first.n_heads,
        "n_positions": spec.context,
        "layer_norm_epsilon": norm.eps,
        "tie_word_embeddings": isinstance(spec.head, Head) and spec.head.tied if spec.head else True,
    }
    if label == "openai-gpt":
        return config | {"afn": "gelu" if mlp.activation == "gelu_tanh" else PUBLISHED[mlp.activation]}
    config |= {
        "n_inner": mlp.d_ff,
        "activation_function": "gelu_new" if mlp.activation == "gelu_tanh" else PUBLISHED[mlp.activation],
        "scale_attn_weights": first.scale != 1.0,
        "scale_attn_by_inverse_layer_idx": attentions[-1].scale != first.scale,
    }
    if label == "gpt3":
        band = next((a.window for a in attentions if a.window is not None), BAND)
        config |= {"head_dim": first.head_dim, "attention_band": band}
    return config


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `gpt2`, which implies GELU's tanh approximation and the usual scale of scores."""
    reader = header.reader()
    d_model, n_heads = reader.size("embedding_length"), reader.size("attention.head_count")
    n_layers, head_dim = reader.bounded("block_count"), head_size(reader, d_model, n_heads)
    reader.must_be("attention.head_count_kv", n_heads)
    spec = build(
        label="gpt2",
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=d_model,
        n_heads=n_heads,
        head_dim=head_dim,
        d_ff=reader.size("feed_forward_length"),
        n_positions=reader.size("context_length"),
        eps=reader.real("attention.layer_norm_epsilon"),
        activation="gelu_tanh",
        scales=(head_dim**-0.5,) * n_layers,
        bands=(None,) * n_layers,
        tied="output.weight" not in header.shapes,
    )
    reader.finish({"vocab_size"})
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    metadata_value(spec.architecture, "gpt2", "GPT-1 and GPT-3")
    metadata_value(mlp.activation, "gelu_tanh", "the activation")
    return {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": attention.n_heads,
        "attention.layer_norm_epsilon": norm.eps,
    }


LAYER: dict[str | tuple[str, ...], str | As] = {
    "layers.{}.attention_norm": "transformer.h.{}.ln_1",
    QKV: As("transformer.h.{}.attn.c_attn", Transposed()),
    "layers.{}.attention.o": As("transformer.h.{}.attn.c_proj", Transposed()),
    "layers.{}.mlp_norm": "transformer.h.{}.ln_2",
    "layers.{}.mlp.up": As("transformer.h.{}.mlp.c_fc", Transposed()),
    "layers.{}.mlp.down": As("transformer.h.{}.mlp.c_proj", Transposed()),
    "head": "lm_head",
}
EMBEDDINGS = {"openai-gpt": ("tokens_embed", "positions_embed")}


def names(spec: Spec) -> Names:
    """Hugging Face's names; matrices are stored (in, out), and queries, keys and values fused."""
    tokens, positions = EMBEDDINGS.get(spec.architecture, ("wte", "wpe"))
    return Names(
        {
            "embedding.tokens": f"transformer.{tokens}",
            "embedding.positions": f"transformer.{positions}",
            **LAYER,
            "norm": "transformer.ln_f",
        },
        aliases=((r"^(?!transformer\.|lm_head\.)", "transformer."),),
        ignored={r"transformer\.h\.\d+\.attn\.(masked_)?bias": "the causal mask, which is computed"},
    )


GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "embedding.positions": "position_embd",
        "layers.{}.attention_norm": "blk.{}.attn_norm",
        QKV: "blk.{}.attn_qkv",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.mlp_norm": "blk.{}.ffn_norm",
        "layers.{}.mlp.up": "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
        "head": "output",
    }
)

FAMILY = Family(
    name="gpt",
    title="GPT",
    members="GPT-1, GPT-2, GPT-3 (no weights are published)",
    model_types=tuple(BASE_CLASSES),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
    gguf=GGUF(
        architectures=("gpt2",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
    ),
)
