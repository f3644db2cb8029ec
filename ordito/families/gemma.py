"""Gemma 1, 2 and 3 (text).

Norms multiply by 1 + w, embeddings by sqrt(d_model), the head is tied. Gemma 2 puts norms before and after each half of a
layer, caps logits, and alternates windows; Gemma 3 replaces the caps by norms on queries and keys, has five windowed
layers for a full one, and turns the two kinds at two speeds. Sources: arXiv:2403.08295, 2408.00118, 2503.19786.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ordito.errors import OrditoWarning
from ordito.families import llama
from ordito.families.config import ACTIVATIONS, PUBLISHED, has_head, leaves, metadata_value
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import Names, Shifted, Transform
from ordito.families.reader import IRRELEVANT, Reader
from ordito.families.rope import (
    metadata_from_rope,
    parameters_from_rope,
    rope_from_config,
    rope_from_header,
    rope_from_parameters,
)
from ordito.spec import (
    Activation,
    Attention,
    Block,
    Chain,
    Embedding,
    FeedForward,
    Head,
    Norm,
    Residual,
    Rope,
    Spec,
    Stack,
)

SLIDING, FULL = "sliding_attention", "full_attention"


def build(
    *,
    generation: int,
    vocab_size: int,
    d_model: int,
    n_heads: int,
    n_kv_heads: int,
    head_dim: int,
    d_ff: int,
    context: int,
    eps: float,
    scale: float,
    windows: Sequence[int | None],
    ropes: Sequence[Rope],
    attention_softcap: float | None = None,
    final_softcap: float | None = None,
    attention_bias: bool = False,
    causal: bool = True,
    tied: bool = True,
    head: bool = True,
    activation: Activation = "gelu_tanh",
) -> Spec:
    """The spec of a Gemma of these sizes; `windows` and `ropes` have an entry for each layer."""

    def norm(name: str, width: int = d_model) -> Norm:
        return Norm(name=name, kind="rms", d_model=width, eps=eps, weight_offset=1.0, scale_in_fp32=True)

    def half(name: str, block: Block) -> Residual:
        after = (norm(f"{name}_post_norm"),) if generation > 1 else ()
        return Residual(Chain(norm(f"{name}_norm"), block, *after))

    def layer(window: int | None, rope: Rope) -> Chain:
        attention = Attention(
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_dim=head_dim,
            scale=scale,
            bias=("q", "k", "v", "o") if attention_bias else (),
            causal=causal,
            window=window,
            softcap=attention_softcap,
            rope=rope,
            q_norm=norm("q_norm", head_dim) if generation == 3 else None,
            k_norm=norm("k_norm", head_dim) if generation == 3 else None,
        )
        mlp = FeedForward(d_model=d_model, d_ff=d_ff, activation=activation, gated=True)
        return Chain(half("attention", attention), half("mlp", mlp))

    layers = tuple(layer(window, rope) for window, rope in zip(windows, ropes, strict=True))
    return Spec(
        architecture=next(label for label, number in LABELS.items() if number == generation),
        context=context,
        body=Chain(Embedding(vocab_size=vocab_size, d_model=d_model, scale=d_model**0.5), Stack(layers=layers), norm("norm")),
        head=Head(d_model=d_model, vocab_size=vocab_size, tied=tied, softcap=final_softcap) if head else None,
    )


DEFAULTS: dict[int, dict[str, Any]] = {
    1: {"vocab": 256000, "d": 3072, "layers": 28, "heads": 16, "kv": 16, "d_ff": 24576, "context": 8192},
    2: {"vocab": 256000, "d": 2304, "layers": 26, "heads": 8, "kv": 4, "d_ff": 9216, "context": 8192},
    3: {"vocab": 262208, "d": 2304, "layers": 26, "heads": 8, "kv": 4, "d_ff": 9216, "context": 131072},
}
"""Defaults of transformers' GemmaConfig, Gemma2Config and Gemma3TextConfig, which published configs leave out."""

LABELS = {"gemma": 1, "gemma2": 2, "gemma3_text": 3}
PERIODS = {2: 2, 3: 6}
"""Every how many layers one has no window, where nothing else is said."""


def spec_from_config(config: Reader) -> Spec:
    """config.json of `gemma`, `gemma2`, `gemma3_text`, and the text half of `gemma3`."""
    label = config.text("model_type")
    if label == "gemma3":
        return _text_of_gemma3(config)
    generation = LABELS[label]
    default = DEFAULTS[generation]
    n_layers, head_dim = config.size("num_hidden_layers", default["layers"]), config.size("head_dim", 256)
    context = config.size("max_position_embeddings", default["context"])
    causal = not config.flag("use_bidirectional_attention", False)
    if generation < 3:
        config.must_be("use_bidirectional_attention", False)
    # The first files of Gemma said "gelu" in `hidden_act` and meant the tanh form, which the code has always used.
    config.text("hidden_act", None)
    kinds, window = [FULL] * n_layers, None
    if generation > 1:
        kinds = _layer_types(config, n_layers, config.size("sliding_window_pattern", PERIODS[generation]))
        window = config.size("sliding_window", 4096)
        # A two-sided window of w tokens sees w // 2 of them on each side (EmbeddingGemma).
        window = window if causal else window // 2 + 1
    attention_softcap = _softcap(config, "attn_logit_softcapping", 50.0) if generation == 2 else None
    if generation == 3:  # The field was kept from Gemma 2, but Gemma 3's forward pass does not cap scores.
        config.get("attn_logit_softcapping", None)
    ropes = _ropes(config, generation, head_dim, context)
    spec = build(
        generation=generation,
        vocab_size=config.size("vocab_size", default["vocab"]),
        d_model=config.size("hidden_size", default["d"]),
        n_heads=config.size("num_attention_heads", default["heads"]),
        n_kv_heads=config.size("num_key_value_heads", default["kv"]),
        head_dim=head_dim,
        d_ff=config.size("intermediate_size", default["d_ff"]),
        context=context,
        eps=config.real("rms_norm_eps", 1e-6),
        scale=(head_dim if generation == 1 else config.real("query_pre_attn_scalar", 256)) ** -0.5,
        windows=[window if kind == SLIDING else None for kind in kinds],
        ropes=[ropes[kind] for kind in kinds],
        attention_softcap=attention_softcap,
        final_softcap=_softcap(config, "final_logit_softcapping", {2: 30.0, 3: None}[generation]) if generation > 1 else None,
        attention_bias=config.flag("attention_bias", False),
        causal=causal,
        tied=config.flag("tie_word_embeddings", True),
        head=has_head(config),
        activation=config.choice("hidden_activation", ACTIVATIONS | {"gelu": "gelu_tanh"}, "gelu_pytorch_tanh"),
    )
    config.finish(IRRELEVANT)
    return spec


def _softcap(config: Reader, key: str, default: float | None) -> float | None:
    """A cap whose null means none, where a missing key means the default."""
    cap: float | None = config.real(key, None if key in config.values else default)
    return cap


def _ropes(config: Reader, generation: int, head_dim: int, context: int) -> dict[str, Rope]:
    """The rope of each kind of layer: one for both before Gemma 3, two thetas since."""
    parameters = config.section("rope_parameters")
    if generation == 3 and parameters is not None and parameters.values.keys() & {SLIDING, FULL}:
        ropes = {}
        for kind, theta in ((FULL, 1e6), (SLIDING, 1e4)):
            section = parameters.section(kind) or Reader({}, config.where)
            ropes[kind] = rope_from_parameters(section, head_dim, context, context, theta)
        parameters.finish()
        return ropes
    full = rope_from_config(config, head_dim, context, theta=1e6 if generation == 3 else 1e4)
    local = Rope(dim=head_dim, theta=config.real("rope_local_base_freq", 1e4)) if generation == 3 else full
    return {FULL: full, SLIDING: local}


def _text_of_gemma3(config: Reader) -> Spec:
    text = config.section("text_config")
    if text is None:
        raise config.fail("text_config", None, "the text half of a gemma3 model")
    warnings.warn(f"{config.where}: images are not supported yet, so only the text half is read", OrditoWarning, stacklevel=2)
    return spec_from_config(Reader({**text.values, "model_type": "gemma3_text"}, text.where))


def _layer_types(config: Reader, n_layers: int, period: int) -> list[str]:
    """The kind of each layer: as listed, or every `period`-th one full."""
    kinds = config.items("layer_types", None)
    if kinds is None:
        return [FULL if (i + 1) % period == 0 else SLIDING for i in range(n_layers)]
    if len(kinds) != n_layers or not set(map(str, kinds)) <= {SLIDING, FULL}:
        raise config.fail("layer_types", kinds, f"{n_layers} entries of {SLIDING!r} or {FULL!r}")
    return list(kinds)


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, mlp, norm = leaves(spec, Attention), leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    first, head_class = (
        attentions[0],
        {"gemma": "Gemma", "gemma2": "Gemma2", "gemma3_text": "Gemma3"}[spec.architecture],
    )
    bare = "Gemma3TextModel" if spec.architecture == "gemma3_text" else f"{head_class}Model"
    config: dict[str, Any] = {
        "architectures": [f"{head_class}ForCausalLM" if spec.head else bare],
        "model_type": spec.architecture,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.d_model,
        "intermediate_size": mlp.d_ff,
        "num_hidden_layers": spec.n_layers,
        "num_attention_heads": first.n_heads,
        "num_key_value_heads": first.n_kv_heads,
        "head_dim": first.head_dim,
        "hidden_activation": PUBLISHED[mlp.activation],
        "max_position_embeddings": spec.context,
        "rms_norm_eps": norm.eps,
        "tie_word_embeddings": spec.head.tied if isinstance(spec.head, Head) else True,
        "attention_bias": "q" in first.bias,
        "rope_parameters": parameters_from_rope(first.rope, first.head_dim),  # type: ignore[arg-type]
    }
    if spec.architecture == "gemma":
        return config | {"hidden_act": config["hidden_activation"]}
    kinds = [FULL if a.window is None else SLIDING for a in attentions]
    window = next((a.window for a in attentions if a.window is not None), 4096)
    config |= {
        "layer_types": kinds,
        "sliding_window": window if first.causal else 2 * (window - 1),
        # An integer in transformers, so that 256 ** -0.5 comes back as the same float.
        "query_pre_attn_scalar": round(first.scale**-2),
        "final_logit_softcapping": spec.head.softcap if isinstance(spec.head, Head) else None,
    }
    if spec.architecture == "gemma2":
        return config | {"attn_logit_softcapping": first.softcap}
    by_kind = {kind: parameters_from_rope(a.rope, a.head_dim) for kind, a in zip(kinds, attentions, strict=True) if a.rope}
    spare = {SLIDING: {"rope_type": "default", "rope_theta": 1e4}, FULL: {"rope_type": "default", "rope_theta": 1e6}}
    return config | {"rope_parameters": spare | by_kind, "use_bidirectional_attention": not first.causal}


GENERATIONS = {"gemma": 1, "gemma2": 2, "gemma3": 3}
LAYERS_OF_27B = {2: 46, 3: 62}
"""The two 27B models scale scores by (d_model / n_heads) ** -0.5, for which GGUF has no key: llama.cpp knows them by
their number of layers, and so must whoever reads its files."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `gemma`, `gemma2` and `gemma3`. What has no key there is fixed by the architecture's label."""
    reader, generation = header.reader(), GENERATIONS[header.architecture]
    d_model, n_heads = reader.size("embedding_length"), reader.size("attention.head_count")
    n_layers, context = reader.size("block_count"), reader.size("context_length")
    head_dim = reader.size("attention.key_length", 256)
    reader.must_be("attention.value_length", head_dim)
    reader.must_be("rope.dimension_count", head_dim)
    reader.get("vocab_size", None)
    full = rope_from_header(header, reader, head_dim, context)
    windows: list[int | None] = [None] * n_layers
    ropes = [full] * n_layers
    scale = head_dim**-0.5
    if generation > 1:
        window = reader.size("attention.sliding_window", 4096)
        sliding = _sliding(reader, n_layers, PERIODS[generation])
        windows = [window if slides else None for slides in sliding]
        local_theta = reader.real("rope.freq_base_swa", 1e4 if generation == 3 else full.theta)
        local = Rope(dim=head_dim, theta=local_theta) if generation == 3 else full
        ropes = [local if slides else full for slides in sliding]
        by_width = n_layers == LAYERS_OF_27B[generation]
        scale = reader.real("attention.scale", (d_model // n_heads if by_width else head_dim) ** -0.5)
    spec = build(
        generation=generation,
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=reader.size("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        d_ff=reader.size("feed_forward_length"),
        context=context,
        eps=reader.real("attention.layer_norm_rms_epsilon"),
        scale=scale,
        windows=windows,
        ropes=ropes,
        attention_softcap=reader.real("attn_logit_softcapping", 50.0) if generation == 2 else None,
        final_softcap=reader.real("final_logit_softcapping", 30.0 if generation == 2 else None) if generation > 1 else None,
        attention_bias="blk.0.attn_q.bias" in header.shapes,
        tied="output.weight" not in header.shapes,
    )
    reader.finish()
    return spec


def _sliding(reader: Reader, n_layers: int, period: int) -> list[bool]:
    """Which layers have a window: a list of flags, or every `period`-th layer full."""
    pattern = reader.get("attention.sliding_window_pattern", period)
    if not isinstance(pattern, int):
        flags = [bool(flag) for flag in pattern]
        if len(flags) < n_layers:
            raise reader.fail("attention.sliding_window_pattern", pattern, f"{n_layers} flags")
        return flags[:n_layers]
    return [(i + 1) % pattern != 0 for i in range(n_layers)]


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attentions, mlp, norm = leaves(spec, Attention), leaves(spec, FeedForward)[0], leaves(spec, Norm)[0]
    first, generation = attentions[0], LABELS[spec.architecture]
    full = next((a for a in attentions if a.window is None), first)
    assert full.rope is not None, "a Gemma layer has rotary positions"
    metadata_value(mlp.activation, "gelu_tanh", "the activation")
    metadata_value(first.causal, True, "two-sided attention")
    metadata: dict[str, Any] = {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": first.n_heads,
        "attention.head_count_kv": first.n_kv_heads,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        "attention.layer_norm_rms_epsilon": norm.eps,
        **metadata_from_rope(full.rope),
    }
    if generation == 1:
        return metadata
    local = next((a for a in attentions if a.window is not None), None)
    if local is not None and local.rope is not None:
        metadata |= {"attention.sliding_window": local.window, "rope.freq_base_swa": local.rope.theta}
    metadata |= {
        "attention.sliding_window_pattern": [a.window is not None for a in attentions],
        "attention.scale": first.scale,
    }
    if first.softcap is not None:
        metadata["attn_logit_softcapping"] = first.softcap
    if isinstance(spec.head, Head) and spec.head.softcap is not None:
        metadata["final_logit_softcapping"] = spec.head.softcap
    return metadata


def shifted(spec: Spec, name: str) -> Transform | None:
    """GGUF stores norm weights as 1 + w."""
    return Shifted(1.0) if name.endswith("norm.weight") else None


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
    aliases=(*llama.NAMES.aliases, (r"^(?:language_model\.model|model\.language_model)\.", "model."),
             (r"^language_model\.lm_head\.", "lm_head.")),
    ignored={
        **llama.NAMES.ignored,
        r"(model\.)?(vision_tower|multi_modal_projector)\..*": "images are not supported yet",
    },
)  # fmt: skip
"""Since Gemma 2, `post_attention_layernorm` is what its name says; in LLaMA and Gemma 1 it stands before the feed-forward."""

GGUF_NAMES = Names(
    {
        **llama.GGUF_NAMES.table,
        "layers.{}.attention.q_norm": "blk.{}.attn_q_norm",
        "layers.{}.attention.k_norm": "blk.{}.attn_k_norm",
        "layers.{}.attention_post_norm": "blk.{}.post_attention_norm",
        "layers.{}.mlp_post_norm": "blk.{}.post_ffw_norm",
    },
    transform=shifted,
)

FAMILY = Family(
    name="gemma",
    title="Gemma",
    members="Gemma 1, 2, 3 (text)",
    model_types=("gemma", "gemma2", "gemma3_text", "gemma3"),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: llama.NAMES if spec.architecture == "gemma" else NAMES,
    gguf=GGUF(
        architectures=tuple(GENERATIONS),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: GGUF_NAMES,
        label=lambda spec: spec.architecture.removesuffix("_text"),
    ),
    prompts=("gemma-3", "gemma"),
)
