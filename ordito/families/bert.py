"""BERT and the encoders of its shape: MiniLM, BGE, E5 (English), GTE, ...

Post-norm layers of bidirectional attention and GELU feed-forwards; token, learned position and token type embeddings, with a
norm behind them; biases everywhere. Source: arXiv:1810.04805, section 3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.errors import ConfigError
from ordito.families.config import ACTIVATIONS, PUBLISHED, QKVO_BIAS, leaves, metadata_value
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import (
    Activation,
    Attention,
    Chain,
    Dense,
    Embedding,
    FeedForward,
    Head,
    Norm,
    Pooling,
    Residual,
    Spec,
    Stack,
)


def build(
    *,
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    d_ff: int,
    n_positions: int,
    n_types: int,
    eps: float,
    label: str = "bert",
    first_position: int = 0,
    activation: Activation = "gelu",
    head_activation: Activation | None = None,
    pooler: bool = False,
    masked_head: bool = False,
    tied: bool = True,
    pooling: Pooling | None = None,
) -> Spec:
    """The spec of a BERT of these sizes, with or without a pooler and a masked-language-model head, whose activation is by
    default that of the layers.

    Raises `ConfigError` if there are more heads than d_model.
    """

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="layer", d_model=d_model, eps=eps, bias=True)

    if n_heads > d_model:
        raise ConfigError(f"got {n_heads} heads for a width of {d_model}, expected at most as many")
    head_dim = d_model // n_heads
    attention = Attention(
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        bias=QKVO_BIAS,
        causal=False,
    )
    mlp = FeedForward(d_model=d_model, d_ff=d_ff, activation=activation, gated=False, bias=True)
    layer = Chain(Residual(attention), norm("attention_norm"), Residual(mlp), norm("mlp_norm"))
    embedding = Embedding(
        vocab_size=vocab_size, d_model=d_model, n_positions=n_positions, first_position=first_position, n_types=n_types
    )
    transform = Dense(name="head_transform", d_in=d_model, d_out=d_model, bias=True, activation=head_activation or activation)
    head = Chain(transform, norm("head_norm"), Head(d_model=d_model, vocab_size=vocab_size, tied=tied, bias=True))
    return Spec(
        architecture=label,
        context=n_positions - first_position,
        body=Chain(embedding, norm("embedding_norm"), Stack(layers=(layer,) * n_layers)),
        head=head if masked_head else None,
        pooler=Dense(name="pooler", d_in=d_model, d_out=d_model, bias=True, activation="tanh") if pooler else None,
        pooling=pooling,
    )


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: bert`; by `architectures` the model has a pooler or a masked-language-model head."""
    classes = config.items("architectures", None) or ["BertModel"]
    masked = classes[0] in ("BertForMaskedLM", "BertForPreTraining")  # the latter also has a next-sentence head, left out here
    if not masked and classes[0] != "BertModel":
        raise config.fail("architectures", classes[0], "BertModel, BertForMaskedLM or BertForPreTraining")
    config.must_be("position_embedding_type", "absolute")
    config.must_be("is_decoder", False)
    spec = build(
        vocab_size=config.size("vocab_size", 30522),
        d_model=config.size("hidden_size", 768),
        n_layers=config.bounded("num_hidden_layers", 12),
        n_heads=config.size("num_attention_heads", 12),
        d_ff=config.size("intermediate_size", 3072),
        n_positions=config.size("max_position_embeddings", 512),
        n_types=config.size("type_vocab_size", 2),
        eps=config.real("layer_norm_eps", 1e-12),
        activation=config.choice("hidden_act", ACTIVATIONS, "gelu"),
        pooler=not masked,
        masked_head=masked,
        tied=config.flag("tie_word_embeddings", True),
    )
    config.finish(IRRELEVANT)
    return spec


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    return {
        "architectures": ["BertForMaskedLM" if spec.head else "BertModel"],
        "model_type": spec.architecture,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attention.n_heads,
        "intermediate_size": mlp.d_ff,
        "hidden_act": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.embedding.n_positions,
        "type_vocab_size": spec.embedding.n_types,
        "layer_norm_eps": norm.eps,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": all(head.tied for head in leaves(spec, Head)),
    }


POOLINGS: dict[int, Pooling | None] = {
    0: None,
    1: Pooling(kind="mean", normalise=True),
    2: Pooling(kind="cls", normalise=True),
    3: Pooling(kind="last", normalise=True),
}
"""`pooling_type` of GGUF metadata. llama.cpp normalises every embedding, as do the models that are converted to it."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of architecture `bert`; its files have neither pooler nor head."""
    reader = header.reader()
    reader.must_be("attention.causal", False)
    pooling = reader.count("pooling_type", 1)
    if pooling not in POOLINGS:
        raise reader.fail("pooling_type", pooling, f"one of {sorted(POOLINGS)}")
    reader.get("vocab_size", None)
    types = header.shapes.get("token_types.weight")
    n_heads = reader.size("attention.head_count")
    reader.must_be("attention.head_count_kv", n_heads)
    spec = build(
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=reader.size("embedding_length"),
        n_layers=reader.bounded("block_count"),
        n_heads=n_heads,
        d_ff=reader.size("feed_forward_length"),
        n_positions=reader.size("context_length"),
        n_types=types[0] if types else 0,
        eps=reader.real("attention.layer_norm_epsilon"),
        pooling=POOLINGS[pooling],
    )
    reader.finish()
    return spec


def pooling_type(spec: Spec) -> int:
    """`pooling_type` of a spec. Raises `ConfigError` for a pooling that GGUF has no number for."""
    for number, pooling in POOLINGS.items():
        if pooling == spec.pooling:
            return number
    raise ConfigError("GGUF metadata cannot express how this model pools: save as safetensors instead")


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attention, mlp, norm = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    metadata_value(mlp.activation, "gelu", "the activation")
    metadata_value(spec.head is not None, False, "a masked-language-model head")
    metadata_value(spec.pooler is not None, False, "a pooler")
    return {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": attention.n_heads,
        "attention.layer_norm_epsilon": norm.eps,
        "attention.causal": False,
        "pooling_type": pooling_type(spec),
    }


NAMES = Names(
    {
        "embedding.tokens": "embeddings.word_embeddings",
        "embedding.positions": "embeddings.position_embeddings",
        "embedding.types": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "layers.{}.attention.q": "encoder.layer.{}.attention.self.query",
        "layers.{}.attention.k": "encoder.layer.{}.attention.self.key",
        "layers.{}.attention.v": "encoder.layer.{}.attention.self.value",
        "layers.{}.attention.o": "encoder.layer.{}.attention.output.dense",
        "layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
        "layers.{}.mlp.up": "encoder.layer.{}.intermediate.dense",
        "layers.{}.mlp.down": "encoder.layer.{}.output.dense",
        "layers.{}.mlp_norm": "encoder.layer.{}.output.LayerNorm",
        "pooler": "pooler.dense",
        "head_transform": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "head.weight": "cls.predictions.decoder.weight",
        "head.bias": "cls.predictions.bias",
    },
    aliases=(
        (r"^bert\.", ""),
        (r"\.gamma$", ".weight"),
        (r"\.beta$", ".bias"),
        (r"^cls\.predictions\.decoder\.bias$", "cls.predictions.bias"),
    ),
    ignored={
        r"embeddings\.position_ids": "positions follow from the spec",
        r"cls\.predictions\.decoder\.weight": "the head is tied to the token embedding",
        r"cls\.seq_relationship\..*": "the next-sentence head of pretraining is not part of the model",
    },
)


def names(spec: Spec) -> Names:
    """Hugging Face's names; an untied head has a bias of its own, and `cls.predictions.bias` is unused."""
    if all(head.tied for head in leaves(spec, Head)):
        return without_others(NAMES, spec, "cls")
    untied = replace(
        NAMES,
        table={**NAMES.table, "head.bias": "cls.predictions.decoder.bias"},
        aliases=NAMES.aliases[:-1],
        ignored={**NAMES.ignored, r"cls\.predictions\.bias": "the untied head has a bias of its own"},
    )
    return without_others(untied, spec, "cls")


def without_others(names: Names, spec: Spec, head: str) -> Names:
    """`names` that ignore what published files have beyond the class that `architectures` names, as transformers does.

    BERT base, RoBERTa base and XLM-R were published as masked-language models, with the pooler of their pretraining; `head` is
    the module of the head.
    """
    others = {r"pooler\..*": "the masked-language model does not use a pooler"} if spec.pooler is None else {}
    if spec.head is None:
        others[rf"{head}\..*"] = "the encoder alone has no head"
    return replace(names, ignored={**names.ignored, **others})


GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "embedding.positions": "position_embd",
        "embedding.types": "token_types",
        "embedding_norm": "token_embd_norm",
        "layers.{}.attention.q": "blk.{}.attn_q",
        "layers.{}.attention.k": "blk.{}.attn_k",
        "layers.{}.attention.v": "blk.{}.attn_v",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.attention_norm": "blk.{}.attn_output_norm",
        "layers.{}.mlp.up": "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "layers.{}.mlp_norm": "blk.{}.layer_output_norm",
    }
)

FAMILY = Family(
    name="bert",
    title="BERT",
    members="BERT, MiniLM and encoders of the same shape",
    model_types=("bert",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=names,
    gguf=GGUF(
        architectures=("bert",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
    ),
)
