"""Gemma 1, 2 and 3 (text).

LLaMA's layers with a GELU gate (GeGLU), RMSNorms that multiply by 1 + w, embeddings multiplied by sqrt(d_model), and a tied
head. Gemma 2 normalises the input and the output of each sublayer (sandwich norm), soft-caps attention scores and logits, and
alternates sliding-window with full attention. Gemma 3 replaces soft-capping by QK-norm, has five sliding-window layers for each
full one, and another rotary base theta in each kind. Sources: arXiv:2403.08295, 2408.00118 (section 2), 2503.19786 (section 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import llama
from ordito.families.config import (
    ACTIVATIONS,
    FULL,
    PUBLISHED,
    SLIDING,
    TEXT_HALF_ALIASES,
    layer_types,
    leaves,
    text_half,
    widest_window,
    windows_from_config,
)
from ordito.families.decoder import config_from_sizes, sizes_from_config
from ordito.families.family import Family
from ordito.families.gemma_gguf import GGUF_GEMMA
from ordito.families.gemma_shape import LABELS, NORM, PERIODS, build, scalar_of
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import parameters_from_rope, rope_from_config, rope_from_parameters
from ordito.spec import Activation, Attention, FeedForward, Head, Rope, Spec

GEMMA2 = {
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "vocab_size": 256000,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
}
GEMMA1 = GEMMA2 | {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "intermediate_size": 24576,
}
DEFAULTS: dict[int, dict[str, Any]] = {
    1: GEMMA1,
    2: GEMMA2,
    3: GEMMA2 | {"vocab_size": 262208, "max_position_embeddings": 131072},
}
"""Defaults of transformers' GemmaConfig, Gemma2Config and Gemma3TextConfig, which published configs leave out."""
CLASSES = {"gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3"}
THETAS = {FULL: 1e6, SLIDING: 1e4}
"""Gemma 3's default rotary bases."""


def spec_from_config(config: Reader) -> Spec:
    """config.json of `gemma`, `gemma2`, `gemma3_text`, and the text half of `gemma3`."""
    label = config.text("model_type")
    if label == "gemma3":
        return _text_of_gemma3(config)
    generation = LABELS[label]
    causal = not config.flag("use_bidirectional_attention", False)
    if generation < 3:
        config.must_be("use_bidirectional_attention", False)
    ropes = _ropes(config, generation)
    sizes = sizes_from_config(config, DEFAULTS[generation] | {"hidden_act": "gelu"}, norms=NORM, rope=ropes[FULL])
    sizes = replace(sizes, activation=_activation(config, generation), embedding_scale=sizes.d_model**0.5)
    windows: tuple[int | None, ...] = (None,) * sizes.n_layers
    if generation > 1:
        period, window = config.size("sliding_window_pattern", PERIODS[generation]), config.size("sliding_window", 4096)
        # A bidirectional window of w tokens reaches w // 2 of them to each side (EmbeddingGemma).
        window = window if causal else window // 2 + 1
        windows = windows_from_config(config, sizes.n_layers, window, lambda i: (i + 1) % period != 0)
    attention_softcap = _softcap(config, "attn_logit_softcapping", 50.0) if generation == 2 else None
    if generation == 3:  # The key was kept from Gemma 2, but Gemma 3's forward pass does not cap scores.
        config.get("attn_logit_softcapping", None)
    spec = build(
        sizes,
        generation,
        scale=(sizes.head_dim if generation == 1 else config.real("query_pre_attn_scalar", 256)) ** -0.5,
        windows=windows,
        ropes=[ropes[FULL if window is None else SLIDING] for window in windows],
        attention_softcap=attention_softcap,
        final_softcap=_softcap(config, "final_logit_softcapping", {2: 30.0, 3: None}[generation]) if generation > 1 else None,
        bias=config.flag("attention_bias", False),
        causal=causal,
    )
    config.finish(IRRELEVANT)
    return spec


def _activation(config: Reader, generation: int) -> Activation:
    """`hidden_activation`, or in Gemma 1 `hidden_act`, where "gelu" of the first checkpoints has always meant its tanh form."""
    if generation == 1 and config.get("hidden_activation", None) is None:
        activation: Activation = config.choice("hidden_act", ACTIVATIONS | {"gelu": "gelu_tanh"}, "gelu_pytorch_tanh")
    else:
        activation = config.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    return activation


def _softcap(config: Reader, key: str, default: float | None) -> float | None:
    """A soft cap, or None if it is null; a missing key means the default."""
    cap: float | None = config.real(key, None if key in config.values else default)
    return cap


def _ropes(config: Reader, generation: int) -> dict[str, Rope]:
    """The rope of each kind of layer: the same in Gemma 1 and 2, with two bases theta in Gemma 3."""
    head_dim = config.size("head_dim", 256)
    context = config.size("max_position_embeddings", DEFAULTS[generation]["max_position_embeddings"])
    parameters = config.section("rope_parameters")
    if generation == 3 and parameters is not None and parameters.values.keys() & THETAS.keys():
        ropes = {}
        for kind, theta in THETAS.items():
            section = parameters.section(kind) or Reader({}, config.where)
            ropes[kind] = rope_from_parameters(section, head_dim, context, context, theta)
        parameters.finish()
        return ropes
    full = rope_from_config(config, head_dim, context, theta=1e6 if generation == 3 else 1e4)
    local = Rope(dim=head_dim, theta=config.real("rope_local_base_freq", 1e4)) if generation == 3 else full
    return {FULL: full, SLIDING: local}


def _text_of_gemma3(config: Reader) -> Spec:
    text, tied = text_half(config), config.flag("tie_word_embeddings", True)
    return spec_from_config(text.changed(model_type="gemma3_text", tie_word_embeddings=tied))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, first = leaves(spec, Attention), leaves(spec, Attention)[0]
    config = config_from_sizes(spec, CLASSES[spec.architecture])
    if spec.architecture == "gemma3_text" and not spec.head:
        config["architectures"] = ["Gemma3TextModel"]
    config |= {
        "tie_word_embeddings": spec.head.tied if isinstance(spec.head, Head) else True,
        "hidden_activation": PUBLISHED[leaves(spec, FeedForward)[0].activation],
        "attention_bias": "q" in first.bias,
        "rope_parameters": parameters_from_rope(first.rope, first.head_dim),  # type: ignore[arg-type]
    }
    if spec.architecture == "gemma":
        return config
    del config["hidden_act"]
    kinds, window = layer_types(spec), widest_window(spec) or 4096
    config |= {
        "layer_types": kinds,
        "sliding_window": window if first.causal else 2 * (window - 1),
        "query_pre_attn_scalar": scalar_of(first.scale),
        "final_logit_softcapping": spec.head.softcap if isinstance(spec.head, Head) else None,
    }
    if spec.architecture == "gemma2":
        return config | {"attn_logit_softcapping": first.softcap}
    by_kind = {kind: parameters_from_rope(a.rope, a.head_dim) for kind, a in zip(kinds, attentions, strict=True) if a.rope}
    defaults = {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in THETAS.items()}
    return config | {"rope_parameters": defaults | by_kind, "use_bidirectional_attention": not first.causal}


NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        "layers.{}.attention.q_norm": "model.layers.{}.self_attn.q_norm",
        "layers.{}.attention.k_norm": "model.layers.{}.self_attn.k_norm",
        "layers.{}.attention_post_norm": "model.layers.{}.post_attention_layernorm",
        "layers.{}.mlp_norm": "model.layers.{}.pre_feedforward_layernorm",
        "layers.{}.mlp_post_norm": "model.layers.{}.post_feedforward_layernorm",
    },
    aliases=(*llama.NAMES.aliases, *TEXT_HALF_ALIASES),
    ignored={**llama.NAMES.ignored, r"(model\.)?(vision_tower|multi_modal_projector)\..*": "images are not supported yet"},
)
"""In LLaMA and Gemma 1 `post_attention_layernorm` is the norm before the feed-forward; since Gemma 2 it follows attention."""

FAMILY = Family(
    name="gemma",
    title="Gemma",
    members="Gemma 1, 2, 3 (text); EmbeddingGemma",
    model_types=("gemma", "gemma2", "gemma3_text", "gemma3"),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: llama.NAMES if spec.architecture == "gemma" else NAMES,
    gguf=GGUF_GEMMA,
    prompts=("gemma-3", "gemma"),
)
