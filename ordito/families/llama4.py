"""Llama 4 Scout and Maverick (text).

Three layers turn by rope and see chunks of the text; every fourth has no positions, sees everything, and sharpens its queries
as the text grows. One routed expert, whose input its sigmoid scales, works beside a shared one: in every layer (Scout) or
every second (Maverick). Source: Meta's release of April 2025 and transformers' reading of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ordito.families import experts, llama
from ordito.families.config import leaves, metadata_value, text_half
from ordito.families.decoder import (
    Sizes,
    config_from_sizes,
    feedforwards,
    metadata_from_sizes,
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


def build(
    sizes: Sizes,
    *,
    turns: list[bool],
    chunks: list[int | None],
    routed: list[bool],
    n_experts: int,
    top_k: int,
    d_expert: int,
    qk_norm: bool,
    temperature: SteppedTemperature | None,
    bias: bool = False,
) -> Spec:
    """The spec; for each layer, whether it turns by rope, its chunk, and whether it routes to experts."""
    norm = {"kind": "rms", "d_model": sizes.head_dim, "eps": sizes.eps, "weight": False}
    norms = {name: Norm(name=name, **norm) for name in ("q_norm", "k_norm")} if qk_norm else {}  # type: ignore[arg-type]

    def mixture() -> MixtureOfExperts:
        router = Router(n_experts=n_experts, top_k=top_k, score="sigmoid", choose_first=True)
        expert = sizes.mlp(d_ff=d_expert)
        return MixtureOfExperts(d_model=sizes.d_model, router=router, expert=expert, shared=expert, weigh="input")

    def layer(turned: bool, chunk: int | None, sparse: bool) -> Block:
        usual: dict[str, Any] = {"bias": llama.ALL if bias else (), "chunk": chunk}
        if turned:
            attention = sizes.attention(**usual, **norms, norm_after_rope=qk_norm)
        else:
            attention = sizes.attention(**usual, rope=None, temperature=temperature)
        return sizes.layer(attention, mixture() if sparse else sizes.mlp())

    return sizes.spec("llama4_text", [layer(*row) for row in zip(turns, chunks, routed, strict=True)])


def spec_from_config(config: Reader) -> Spec:
    """config.json of `llama4_text`, and the text half of `llama4`."""
    if config.text("model_type") == "llama4":
        return _text_of_llama4(config)
    d_expert = config.size("intermediate_size", 8192)
    config = Reader({**config.values, "intermediate_size": config.size("intermediate_size_mlp", 16384)}, config.where)
    sizes = sizes_from_config(config, DEFAULTS, theta=500000.0)
    sizes = replace(sizes, rope=replace(sizes.rope, layout="interleaved"))
    n, step = sizes.n_layers, config.count("interleave_moe_layer_step", 1)
    every = config.size("no_rope_layer_interval", 4)
    turns = (config.items("no_rope_layers", None) or [(i + 1) % every != 0 for i in range(n)])[:n]
    if len(turns) != n or not all(flag in (0, 1) for flag in turns):
        raise config.fail("no_rope_layers", turns, f"{n} entries of 0 or 1")
    kinds = config.items("layer_types", None) or [CHUNKED if turned else FULL for turned in turns]
    if len(kinds) < n or not all(kind in (CHUNKED, FULL) for kind in kinds):
        raise config.fail("layer_types", kinds, f"{n} entries of {CHUNKED!r} or {FULL!r}")
    chunk = config.size_or_none("attention_chunk_size", CHUNK)
    sparse = config.items("moe_layers", range(step - 1, n, step) if step else ())
    period, strength = config.size("floor_scale", PERIOD), config.real("attn_scale", STRENGTH)
    tuned = config.get("attn_temperature_tuning", True)
    if tuned not in (False, True, 4):  # Llama4TextConfig's first default was 4, and meant true
        raise config.fail("attn_temperature_tuning", tuned, "true or false")
    config.get("router_jitter_noise", None)  # noise of training alone
    spec = build(
        sizes,
        turns=[bool(flag) for flag in turns],
        chunks=[chunk if kind == CHUNKED else None for kind in kinds[:n]],
        routed=[i in sparse for i in range(n)],
        n_experts=config.few("num_local_experts", 16, least=0),
        top_k=config.count("num_experts_per_tok", 1),
        d_expert=d_expert,
        qk_norm=config.flag("use_qk_norm", True),
        temperature=SteppedTemperature(strength=strength, period=period, offset=1) if tuned else None,
        bias=config.flag("attention_bias", False),
    )
    config.finish(IRRELEVANT | {"intermediate_size_mlp", "for_llm_compressor"})
    return spec


def _text_of_llama4(config: Reader) -> Spec:
    text = text_half(config)
    return spec_from_config(Reader({**text.values, "model_type": "llama4_text"}, text.where))


def config_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_config`."""
    attentions, mixtures = leaves(spec, Attention), leaves(spec, MixtureOfExperts)
    temperature = next((a.temperature for a in attentions if a.temperature), None)
    tuned = isinstance(temperature, SteppedTemperature)
    config = config_from_sizes(spec, "Llama4") | {
        "architectures": ["Llama4ForCausalLM" if spec.head else "Llama4TextModel"],
        "intermediate_size": feedforwards(spec)[-1].d_ff,
        "intermediate_size_mlp": feedforwards(spec)[0].d_ff,
        "moe_layers": routed_layers(spec),
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


def routed_layers(spec: Spec) -> list[int]:
    """The numbers of the layers that route to experts."""
    return [int(path.split(".")[1]) for path, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts)]


MAVERICK_EXPERTS = 128
"""llama.cpp knows by their number whether queries and keys are normed: Maverick's are not."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `llama4`, which has no keys for chunks, layers without positions and temperatures."""
    reader = header.reader()
    sizes = sizes_from_header(header, reader)
    sizes = replace(sizes, rope=replace(sizes.rope, layout="interleaved"))
    n, step, counts = sizes.n_layers, reader.size("interleave_moe_layer_step"), experts.counts_from_header(reader)
    turns = [(i + 1) % 4 != 0 for i in range(n)]
    spec = build(
        sizes,
        turns=turns,
        chunks=[CHUNK if turned else None for turned in turns],
        routed=[(i + 1) % step == 0 for i in range(n)],
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
    routed, dense = routed_layers(spec), leaves(spec, FeedForward)
    metadata_value(bool(leaves(spec, Attention)[0].bias), False, "biases")
    metadata_value(bool(routed), True, "layers without experts alone")
    width = {"feed_forward_length": dense[0].d_ff} if dense else {}
    step = {"interleave_moe_layer_step": routed[0] + 1}
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
    aliases=(
        *llama.NAMES.aliases,
        (r"^(?:language_model\.model|model\.language_model)\.", "model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    ),
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
    ),
    prompts=("llama-4",),
)
