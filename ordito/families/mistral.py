"""Mistral 7B, Nemo, Large 2, Small 3, Ministral and Ministral 3 (text), Mixtral; Minerva.

LLaMA's layers, with sliding-window attention in all layers (7B v0.1), in some (Ministral 8B) or in none. Mixtral replaces each
feed-forward by 8 experts, of which every token takes 2. Ministral 3 uses YaRN, and beyond its original context multiplies
queries by a factor that grows with their position, as Llama 4 does. Sources: arXiv:2310.06825 (section 2), 2401.04088
(section 2).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import (
    TEXT_HALF_ALIASES,
    layer_types,
    leaves,
    text_half,
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
from ordito.spec import (
    Attention,
    Block,
    MixtureOfExperts,
    Spec,
    SteppedTemperature,
    YarnScaling,
)

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
MINISTRAL3 = DEFAULTS | {
    "vocab_size": 131072,
    "num_hidden_layers": 34,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
}
"""Defaults of transformers' MistralConfig, MixtralConfig and Ministral3Config."""
MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""Ministral3Config's default rope, that of the 8B."""
CLASSES = {"mistral": "Mistral", "ministral": "Ministral", "ministral3": "Ministral3", "mixtral": "Mixtral"}
TEMPERATURE = "llama_4_scaling_beta"


def spec_from_config(config: Reader) -> Spec:
    """config.json of `mistral`, `ministral`, `ministral3`, `mixtral`, and the text half of `mistral3`."""
    label = config.text("model_type")
    if label == "mistral3":
        return _text_of_mistral3(config)
    if label == "ministral3":
        if config.values.get("rope_parameters") is None and config.values.get("rope_scaling") is None:
            config = config.changed(rope_parameters=MINISTRAL3_ROPE)
        sizes = sizes_from_config(config, MINISTRAL3, theta=1e6, own_rope_keys=(TEMPERATURE, "max_position_embeddings"))
    else:
        eps, theta = (1e-5, 1e6) if label == "mixtral" else (1e-6, 1e4)
        sizes = sizes_from_config(config, DEFAULTS | {"rms_norm_eps": eps}, theta=theta)
    window = config.size_or_none("sliding_window", 4096 if label in ("mistral", "ministral") else None)
    windows = windows_from_config(config, sizes.n_layers, window, lambda i: window is not None)
    temperature = _temperature(config, sizes) if label == "ministral3" else None
    mlp: Block = sizes.mlp()
    if label == "mixtral":
        config.get("router_jitter_noise", None)  # noise in training only
        mlp = experts.mixtral(sizes, config.bounded("num_local_experts", 8), config.size("num_experts_per_tok", 2))
    config.finish(IRRELEVANT)
    attentions = [sizes.attention(window=window, temperature=temperature) for window in windows]
    return sizes.spec(label, [sizes.layer(attention, mlp) for attention in attentions])


def _temperature(config: Reader, sizes: Sizes) -> SteppedTemperature | None:
    """Ministral 3's factor on queries: 1 + beta ln(1 + floor(position / original context of YaRN))."""
    parameters = config.section("rope_parameters") or config.section("rope_scaling")
    strength = parameters.real(TEMPERATURE, None) if parameters else None
    if strength is None:
        return None
    if not isinstance(sizes.rope.scaling, YarnScaling):
        raise config.fail(TEMPERATURE, strength, "rope_parameters of rope_type yarn beside it")
    return SteppedTemperature(strength=strength, period=sizes.rope.scaling.context)


def _text_of_mistral3(config: Reader) -> Spec:
    text = text_half(config)
    outer = {key: config.values[key] for key in ("architectures", "tie_word_embeddings") if key in config.values}
    return spec_from_config(Reader({"model_type": "mistral", **text.values, **outer}, text.where))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attention, window = leaves(spec, Attention)[0], widest_window(spec)
    config = config_from_sizes(spec, CLASSES[spec.architecture]) | {"sliding_window": window}
    if spec.architecture == "ministral":
        # transformers builds a mask for each of `layer_types`, so a window must be given even if no layer uses it.
        return config | {"layer_types": layer_types(spec), "sliding_window": window or 4096}
    if spec.architecture == "mixtral":
        router = leaves(spec, MixtureOfExperts)[0].router
        return config | {"num_local_experts": router.n_experts, "num_experts_per_tok": router.top_k}
    if isinstance(attention.temperature, SteppedTemperature):
        config["rope_parameters"] |= {TEMPERATURE: attention.temperature.strength}
    return config


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `mistral3`; models without a temperature are files of `llama`."""
    reader = header.reader()
    reader.get("rope.scaling.yarn_log_multiplier", None)  # for Ministral 3 it cancels YaRN's attention factor: 1.0 below
    sizes = sizes_from_header(header, reader)
    scaling = sizes.rope.scaling
    strength = reader.real("attention.temperature_scale", None)
    temperature = None
    if strength is not None and isinstance(scaling, YarnScaling):
        sizes = replace(sizes, rope=replace(sizes.rope, scaling=replace(scaling, attention_factor=1.0)))
        temperature = SteppedTemperature(strength=strength, period=scaling.context)
    reader.finish()
    layer = sizes.layer(sizes.attention(temperature=temperature), sizes.mlp())
    return sizes.spec("ministral3", [layer] * sizes.n_layers)


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`, and of LLaMA's for the other members."""
    metadata = metadata_from_sizes(spec)
    temperature = leaves(spec, Attention)[0].temperature
    if isinstance(temperature, SteppedTemperature):
        metadata |= {"attention.temperature_scale": temperature.strength, "rope.scaling.yarn_log_multiplier": 1.0}
        metadata.pop("rope.scaling.attn_factor", None)
    return metadata | (experts.metadata_from_experts(spec) if leaves(spec, MixtureOfExperts) else {})


NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        "layers.{}.mlp.router": "model.layers.{}.block_sparse_moe.gate",
        **experts.separate("model.layers.{}.block_sparse_moe.experts.{}", "w1", "w3", "w2"),
    },
    aliases=(*llama.NAMES.aliases, *TEXT_HALF_ALIASES),
    ignored={**llama.NAMES.ignored, r"(model\.)?(vision_tower|multi_modal_projector)\..*": "images are not supported yet"},
)
IN_MEMORY = replace(
    NAMES,
    table={
        **NAMES.table,
        "layers.{}.mlp.router": "model.layers.{}.mlp.gate",
        **experts.stacked("model.layers.{}.mlp.experts"),
    },
)
"""The names of transformers 5's modules, which adapters and some checkpoints follow."""
MISTRAL = Names(
    {
        "embedding.tokens": "tok_embeddings",
        "layers.{}.attention_norm": "layers.{}.attention_norm",
        "layers.{}.attention.q": "layers.{}.attention.wq",
        "layers.{}.attention.k": "layers.{}.attention.wk",
        "layers.{}.attention.v": "layers.{}.attention.wv",
        "layers.{}.attention.o": "layers.{}.attention.wo",
        "layers.{}.mlp_norm": "layers.{}.ffn_norm",
        "layers.{}.mlp.gate": "layers.{}.feed_forward.w1",
        "layers.{}.mlp.up": "layers.{}.feed_forward.w3",
        "layers.{}.mlp.down": "layers.{}.feed_forward.w2",
        "layers.{}.mlp.router": "layers.{}.feed_forward.gate",
        **experts.separate("layers.{}.feed_forward.experts.{}", "w1", "w3", "w2"),
        "norm": "norm",
        "head": "output",
    },
    transform=llama.interleaved,
    ignored={
        r"(vision_encoder|vision_language_adapter|patch_merger|pre_mm_projector_norm)\..*": "images are not supported yet"
    },
)
"""The names in Mistral's own format (params.json, consolidated.safetensors), which are those of Meta's LLaMA code."""

FAMILY = Family(
    name="mistral",
    title="Mistral",
    members="Mistral 7B, Nemo, Large 2, Small 3; Ministral, Ministral 3 (text); Mixtral 8x7B, 8x22B; Minerva",
    model_types=("mistral", "ministral", "ministral3", "mixtral", "mistral3"),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    layouts=lambda spec: (IN_MEMORY, MISTRAL),
    gguf=GGUF(
        architectures=("mistral3",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: replace(llama.GGUF_NAMES, table={**llama.GGUF_NAMES.table, **experts.gguf_names(spec)}),
        label=lambda spec: "mistral3" if leaves(spec, Attention)[0].temperature else "llama",
        caveat=partly_rotated,
    ),
    prompts=(
        "mistral-v13",
        "mistral-v11",
        "mistral-v7-tekken",
        "mistral-v7",
        "mistral-v3-tekken",
        "mistral-v3",
        "llama-3",
        "llama-2",
    ),
)
