"""ModernBERT.

An encoder with a decoder's blocks: pre-norm layers, rotary positions, GELU-gated feed-forwards (GeGLU), no biases. Two of three
layers have local attention, a bidirectional sliding window, with another rotary base theta. Source: arXiv:2412.13663,
section 2.1.
"""

from __future__ import annotations

from typing import Any

from ordito.families.config import (
    ACTIVATIONS,
    FULL,
    PUBLISHED,
    SLIDING,
    head_size,
    layer_types,
    leaves,
    windows_from_config,
)
from ordito.families.family import Family
from ordito.families.modernbert_gguf import MODERN_BERT
from ordito.families.modernbert_shape import build
from ordito.families.naming import GATE_UP, QKV, Names
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import parameters_from_rope, rope_from_parameters
from ordito.spec import (
    Attention,
    Dense,
    FeedForward,
    Head,
    Norm,
    Rope,
    Spec,
)

THETAS = {FULL: ("global_rope_theta", 160000.0), SLIDING: ("local_rope_theta", 10000.0)}
IRRELEVANT_HERE = IRRELEVANT | frozenset(
    """initializer_cutoff_factor embedding_dropout mlp_dropout classifier_pooling deterministic_flash_attn sparse_prediction
    sparse_pred_ignore_index reference_compile repad_logits_with_grad layer_norm_eps position_embedding_type""".split()
)


def spec_from_config(config: Reader) -> Spec:
    """config.json of `model_type: modernbert`; by `architectures` the model has a masked-language-model head or none."""
    classes = config.items("architectures", None) or ["ModernBertModel"]
    if classes[0] not in ("ModernBertModel", "ModernBertForMaskedLM"):
        raise config.fail("architectures", classes[0], "ModernBertModel or ModernBertForMaskedLM")
    d_model, n_heads = config.size("hidden_size", 768), config.size("num_attention_heads", 12)
    vocab_size, context = config.size("vocab_size", 50368), config.size("max_position_embeddings", 8192)
    every = config.size("global_attn_every_n_layers", 3)
    # A window of w tokens reaches w // 2 of them to each side; the token itself is counted besides.
    window = config.size("local_attention", 128) // 2 + 1
    transform = Dense(
        name="head_transform",
        d_in=d_model,
        d_out=d_model,
        bias=config.flag("classifier_bias", False),
        activation=config.choice("classifier_activation", ACTIVATIONS, "gelu"),
    )
    tied, decoder_bias = config.flag("tie_word_embeddings", True), config.flag("decoder_bias", True)
    masked = classes[0] == "ModernBertForMaskedLM"
    spec = build(
        vocab_size=vocab_size,
        d_model=d_model,
        n_heads=n_heads,
        d_ff=config.size("intermediate_size", 1152),
        context=context,
        eps=config.real("norm_eps", 1e-5),
        windows=windows_from_config(config, config.bounded("num_hidden_layers", 22), window, lambda i: i % every != 0),
        ropes=_ropes(config, head_size(config, d_model, n_heads), context),
        activation=config.choice("hidden_activation", ACTIVATIONS, "gelu"),
        norm_bias=config.flag("norm_bias", False),
        attention_bias=config.flag("attention_bias", False),
        mlp_bias=config.flag("mlp_bias", False),
        transform=transform if masked else None,
        head=Head(d_model=d_model, vocab_size=vocab_size, tied=tied, bias=decoder_bias),
    )
    config.finish(IRRELEVANT_HERE)
    return spec


def _ropes(config: Reader, head_dim: int, context: int) -> dict[str, Rope]:
    """The rope of each kind of layer, by `layer_types`' names."""
    parameters = config.section("rope_parameters") or Reader({}, config.where)
    ropes = {}
    for kind, (key, theta) in THETAS.items():
        theta = config.real(key, theta)
        section = parameters.section(kind) or Reader({}, config.where)
        ropes[kind] = rope_from_parameters(section, head_dim, context, context, theta)
    parameters.finish()
    return ropes


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, mlp, norm = leaves(spec, Attention), leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    kinds, dense = layer_types(spec), leaves(spec, Dense)
    window = next((a.window for a in attentions if a.window is not None), 65)
    ropes = {kind: {"rope_type": "default", "rope_theta": theta} for kind, (_, theta) in THETAS.items()} | {
        kind: parameters_from_rope(a.rope, a.head_dim) for kind, a in zip(kinds, attentions, strict=True) if a.rope
    }
    config = {
        "architectures": ["ModernBertForMaskedLM" if spec.head else "ModernBertModel"],
        "model_type": "modernbert",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": attentions[0].n_heads,
        "hidden_activation": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.context,
        "norm_eps": norm.eps,
        "norm_bias": norm.bias,
        "attention_bias": bool(attentions[0].bias),
        "mlp_bias": mlp.bias,
        "layer_types": kinds,
        "local_attention": 2 * (window - 1),
        "rope_parameters": ropes,
        "pad_token_id": None,  # transformers' default may be no id of a small vocabulary
    }
    if dense:
        head = leaves(spec, Head)[0]
        assert dense[0].activation is not None, "the transform before the head has an activation"
        config |= {
            "classifier_bias": dense[0].bias,
            "classifier_activation": PUBLISHED[dense[0].activation],
            "decoder_bias": head.bias,
            "tie_word_embeddings": head.tied,
        }
    return config


NAMES = Names(
    {
        "embedding.tokens": "model.embeddings.tok_embeddings",
        "embedding_norm": "model.embeddings.norm",
        "layers.{}.attention_norm": "model.layers.{}.attn_norm",
        QKV: "model.layers.{}.attn.Wqkv",
        "layers.{}.attention.o": "model.layers.{}.attn.Wo",
        "layers.{}.mlp_norm": "model.layers.{}.mlp_norm",
        GATE_UP: "model.layers.{}.mlp.Wi",
        "layers.{}.mlp.down": "model.layers.{}.mlp.Wo",
        "norm": "model.final_norm",
        "head_transform": "head.dense",
        "head_norm": "head.norm",
        "head": "decoder",
    },
    aliases=((r"^(?=embeddings\.|layers\.|final_norm\.)", "model."),),
)


FAMILY = Family(
    name="modernbert",
    title="ModernBERT",
    members="ModernBERT base, large, and embedders made of them",
    model_types=("modernbert",),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=MODERN_BERT,
)
