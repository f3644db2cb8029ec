"""Llama 4 Scout and Maverick (text).

iRoPE: three of four layers have rotary positions and chunked attention; every fourth has no positions (NoPE), full attention,
and a temperature on its queries that grows with their position. A mixture of one routed expert, chosen by a sigmoid that
scales its input, and one shared expert replaces the feed-forward in every layer (Scout) or every second (Maverick). Scout has a
QK-norm without weights, after the rotation. Source: Meta's release of April 2025 and transformers' implementation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import QKVO_BIAS, TEXT_HALF_ALIASES, layers_with, leaves, metadata_value, text_half
from ordito.families.decoder import (
    Sizes,
    config_from_sizes,
    feedforwards,
    metadata_from_sizes,
    partly_rotated,
    sizes_from_config,
    sizes_from_header,
)
from ordito.families.family import GGUF, Family, Header
from ordito.families.naming import As, Names, Transposed
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Attention, Block, FeedForward, MixtureOfExperts, Norm, Router, Spec, SteppedTemperature

CHUNKED, FULL = "chunked_attention", "full_attention"
DEFAULTS = {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
}
"""Defaults of transformers' Llama4TextConfig, which are Scout's."""
PERIOD, STRENGTH, CHUNK = 8192, 0.1, 8192
"""Defaults of the temperature, 1 + STRENGTH ln(1 + floor((position + 1) / PERIOD)), and of chunked attention, in tokens."""


def build(
    sizes: Sizes,
    *,
    with_rope: list[bool],
    chunks: list[int | None],
    with_experts: list[bool],
    n_experts: int,
    top_k: int,
    d_expert: int,
    qk_norm: bool,
    temperature: SteppedTemperature | None,
    bias: bool = False,
) -> Spec:
    """The spec of a Llama 4.

    `with_rope`, `chunks` (None: full attention) and `with_experts` have an entry for each layer. `qk_norm` and `temperature`
    are those of the layers with and without rope respectively.
    """
    norm = {"kind": "rms", "d_model": sizes.head_dim, "eps": sizes.eps, "weight": False}
    norms = {name: Norm(name=name, **norm) for name in ("q_norm", "k_norm")} if qk_norm else {}  # type: ignore[arg-type]

    def mixture() -> MixtureOfExperts:
        router = Router(n_experts=n_experts, top_k=top_k, score="sigmoid", choose_first=True)
        expert = sizes.mlp(d_ff=d_expert)
        return MixtureOfExperts(d_model=sizes.d_model, router=router, expert=expert, shared=expert, weigh="input")

    def layer(rope: bool, chunk: int | None, sparse: bool) -> Block:
        common: dict[str, Any] = {"bias": QKVO_BIAS if bias else (), "chunk": chunk}
        if rope:
            attention = sizes.attention(**common, **norms, norm_after_rope=qk_norm)
        else:
            attention = sizes.attention(**common, rope=None, temperature=temperature)
        return sizes.layer(attention, mixture() if sparse else sizes.mlp())

    return sizes.spec("llama4_text", [layer(*row) for row in zip(with_rope, chunks, with_experts, strict=True)])


def spec_from_config(config: Reader) -> Spec:
    """config.json of `llama4_text`, and the text half of `llama4`."""
    if config.text("model_type") == "llama4":
        return _text_of_llama4(config)
    d_expert = config.size("intermediate_size", 8192)
    config = config.changed(intermediate_size=config.size("intermediate_size_mlp", 16384))
    sizes = sizes_from_config(config, DEFAULTS, theta=500000.0)
    sizes = replace(sizes, rope=replace(sizes.rope, layout="interleaved"))
    n, step = sizes.n_layers, config.count("interleave_moe_layer_step", 1)
    interval = config.size("no_rope_layer_interval", 4)
    # Despite the key's name, 1 stands for a layer with rope.
    with_rope = (config.items("no_rope_layers", None) or [(i + 1) % interval != 0 for i in range(n)])[:n]
    if len(with_rope) != n or not all(flag in (0, 1) for flag in with_rope):
        raise config.fail("no_rope_layers", with_rope, f"{n} entries of 0 or 1")
    kinds = config.items("layer_types", None) or [CHUNKED if rope else FULL for rope in with_rope]
    if len(kinds) < n or not all(kind in (CHUNKED, FULL) for kind in kinds):
        raise config.fail("layer_types", kinds, f"{n} entries of {CHUNKED!r} or {FULL!r}")
    chunk = config.size_or_none("attention_chunk_size", CHUNK)
    moe_layers = config.items("moe_layers", range(step - 1, n, step) if step else ())
    period, strength = config.size("floor_scale", PERIOD), config.real("attn_scale", STRENGTH)
    tuned = config.get("attn_temperature_tuning", True)
    if tuned not in (False, True, 4):  # the first default of Llama4TextConfig was 4, taken as true
        raise config.fail("attn_temperature_tuning", tuned, "true or false")
    config.get("router_jitter_noise", None)  # noise in training only
    spec = build(
        sizes,
        with_rope=[bool(flag) for flag in with_rope],
        chunks=[chunk if kind == CHUNKED else None for kind in kinds[:n]],
        with_experts=[i in moe_layers for i in range(n)],
        n_experts=config.bounded("num_local_experts", 16, least=0),
        top_k=config.count("num_experts_per_tok", 1),
        d_expert=d_expert,
        qk_norm=config.flag("use_qk_norm", True),
        temperature=SteppedTemperature(strength=strength, period=period, offset=1) if tuned else None,
        bias=config.flag("attention_bias", False),
    )
    config.finish(IRRELEVANT | {"for_llm_compressor"})
    return spec


def _text_of_llama4(config: Reader) -> Spec:
    return spec_from_config(text_half(config).changed(model_type="llama4_text"))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, mixtures = leaves(spec, Attention), leaves(spec, MixtureOfExperts)
    temperature = next((a.temperature for a in attentions if a.temperature), None)
    tuned = isinstance(temperature, SteppedTemperature)
    config = config_from_sizes(spec, "Llama4") | {
        "architectures": ["Llama4ForCausalLM" if spec.head else "Llama4TextModel"],
        "intermediate_size": feedforwards(spec)[-1].d_ff,
        "intermediate_size_mlp": feedforwards(spec)[0].d_ff,
        "moe_layers": layers_with(spec, MixtureOfExperts),
        "no_rope_layers": [int(a.rope is not None) for a in attentions],
        "layer_types": [CHUNKED if a.chunk else FULL for a in attentions],
        "attention_chunk_size": next((a.chunk for a in attentions if a.chunk), CHUNK),
        "use_qk_norm": any(a.q_norm for a in attentions),
        "attn_temperature_tuning": tuned,
        "attention_bias": bool(attentions[0].bias),
    }
    if isinstance(temperature, SteppedTemperature):
        config |= {"floor_scale": temperature.period, "attn_scale": temperature.strength}
    for mixture in mixtures[:1]:
        config |= {"num_local_experts": mixture.router.n_experts, "num_experts_per_tok": mixture.router.top_k}
    return config


MAVERICK_EXPERTS = 128
"""llama.cpp recognises Maverick, which has no QK-norm, by its number of experts."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `llama4`. There are no keys for chunks, layers without rope and temperatures: those of the releases."""
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    sizes = replace(sizes, rope=replace(sizes.rope, layout="interleaved"))
    n, step, counts = sizes.n_layers, reader.size("interleave_moe_layer_step"), experts.counts_from_header(reader)
    with_rope = [(i + 1) % 4 != 0 for i in range(n)]
    spec = build(
        sizes,
        with_rope=with_rope,
        chunks=[CHUNK if rope else None for rope in with_rope],
        with_experts=[(i + 1) % step == 0 for i in range(n)],
        d_expert=reader.size("expert_feed_forward_length"),
        qk_norm=counts["n_experts"] != MAVERICK_EXPERTS,
        temperature=SteppedTemperature(strength=STRENGTH, period=PERIOD, offset=1),
        **counts,
    )
    reader.must_be("attention.sliding_window", CHUNK)
    reader.finish()
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    moe_layers, dense = layers_with(spec, MixtureOfExperts), leaves(spec, FeedForward)
    metadata_value(bool(leaves(spec, Attention)[0].bias), False, "biases of the attention projections")
    metadata_value(bool(moe_layers), True, "a model without experts")
    width = {"feed_forward_length": dense[0].d_ff} if dense else {}
    step = {"interleave_moe_layer_step": moe_layers[0] + 1}
    return metadata_from_sizes(spec) | width | experts.metadata_from_experts(spec) | step


MLP, THEIRS = "layers.{}.mlp", "model.layers.{}.feed_forward"
PARTS = ("gate", "up", "down")
NAMES = replace(
    llama.NAMES,
    table={
        **llama.NAMES.table,
        **{f"{MLP}.{part}": f"{THEIRS}.{part}_proj" for part in PARTS},
        **{f"{MLP}.shared.{part}": f"{THEIRS}.shared_expert.{part}_proj" for part in PARTS},
        f"{MLP}.router": f"{THEIRS}.router",
        (f"{MLP}.experts.gate.weight", f"{MLP}.experts.up.weight"): As(f"{THEIRS}.experts.gate_up_proj", Transposed()),
        f"{MLP}.experts.down.weight": As(f"{THEIRS}.experts.down_proj", Transposed()),
    },
    aliases=(*llama.NAMES.aliases, *TEXT_HALF_ALIASES),
    ignored={**llama.NAMES.ignored, r"(model\.)?(vision_model|multi_modal_projector)\..*": "images are not supported yet"},
)

FAMILY = Family(
    name="llama4",
    title="LLaMA 4",
    members="Llama 4 Scout, Maverick (text)",
    model_types=("llama4_text", "llama4"),
    spec_from_config=spec_from_config,
    config_from_spec=config_from_spec,
    names=lambda spec: NAMES,
    gguf=GGUF(
        architectures=("llama4",),
        spec_from_header=spec_from_header,
        metadata_from_spec=metadata_from_spec,
        names=lambda spec: Names({**llama.GGUF_NAMES.table, **experts.gguf_names(spec)}),
        label=lambda spec: "llama4",
        caveat=partly_rotated,
    ),
    prompts=("llama-4",),
)
