"""Gemma in GGUF files."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ordito.families import llama
from ordito.families.config import leaves, metadata_value
from ordito.families.decoder import metadata_from_sizes, sizes_from_header
from ordito.families.family import GGUF, Header
from ordito.families.gemma_shape import LABELS, NORM, PERIODS, build, scalar_of
from ordito.families.naming import Names, Shifted, Transform
from ordito.families.reader import Reader
from ordito.families.rope import metadata_from_rope
from ordito.spec import Attention, Dense, Head, Pooling, Rope, Spec

GENERATIONS = {"gemma": 1, "gemma2": 2, "gemma3": 3, "gemma-embedding": 3}
LAYERS_OF_27B = {2: 46, 3: 62}
"""The two 27B models scale scores by (d_model / n_heads) ** -0.5, for which llama.cpp has no key: it recognises these models by
their number of layers, and so does every other reader of its files."""
KINDS: dict[int, Any] = {1: "mean", 2: "cls", 3: "last"}
"""`pooling_type` of GGUF metadata."""


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `gemma`, `gemma2`, `gemma3`, `gemma-embedding`. The label implies what has no key."""
    reader, generation, two_sided = header.reader(), GENERATIONS[header.architecture], "embedding" in header.architecture
    sizes = sizes_from_header(header, reader, activation="gelu_tanh", norms=NORM)
    sizes = replace(sizes, embedding_scale=sizes.d_model**0.5, head=not two_sided)
    n_layers, full = sizes.n_layers, sizes.rope
    windows: list[int | None] = [None] * n_layers
    ropes, scale = [full] * n_layers, sizes.head_dim**-0.5
    if generation > 1:
        window = reader.size("attention.sliding_window", 4096)
        window = window // 2 + 1 if two_sided else window
        sliding = _sliding(reader, n_layers, PERIODS[generation])
        windows = [window if slides else None for slides in sliding]
        local_theta = reader.real("rope.freq_base_swa", 1e4 if generation == 3 else full.theta)
        local = Rope(dim=sizes.head_dim, theta=local_theta) if generation == 3 else full
        ropes = [local if slides else full for slides in sliding]
        usual = _usual_scale(generation, n_layers, sizes.d_model // sizes.n_heads, sizes.head_dim)
        scale = _exact(reader.real("attention.scale", usual))
    spec = build(
        sizes,
        generation,
        scale=scale,
        windows=windows,
        ropes=ropes,
        attention_softcap=reader.real("attn_logit_softcapping", 50.0) if generation == 2 else None,
        final_softcap=reader.real("final_logit_softcapping", 30.0 if generation == 2 else None) if generation > 1 else None,
        bias="blk.0.attn_q.bias" in header.shapes,
        causal=not two_sided,
    )
    pooling = _pooling(header, reader) if two_sided else None
    reader.finish()
    return replace(spec, pooling=pooling)


def _exact(scale: float) -> float:
    """The factor of scores that was rounded to fp32: n ** -0.5, where that is as near."""
    exact = float(scalar_of(scale) ** -0.5)
    return exact if math.isclose(scale, exact, rel_tol=1e-6) else scale


def _usual_scale(generation: int, n_layers: int, width: int, head_dim: int) -> float:
    """The factor of scores that readers assume; `width` is d_model / n_heads."""
    by_width = n_layers == LAYERS_OF_27B.get(generation)
    return float((width if by_width else head_dim) ** -0.5)


def caveat(spec: Spec) -> str | None:
    """llama.cpp knows no head of Gemma 1 and 2 but the embedding, and does not read `attention.scale`, which it computes."""
    first, generation = leaves(spec, Attention)[0], LABELS[spec.architecture]
    if generation < 3 and spec.head is not None and not spec.tied:
        return (
            f"llama.cpp will refuse this file, because to it the head of every Gemma {generation} is its embedding, and this "
            "one has a head of its own"
        )
    usual = _usual_scale(generation, spec.n_layers, spec.d_model // first.n_heads, first.head_dim)
    if math.isclose(first.scale, usual, rel_tol=1e-6):
        return None
    return (
        f"llama.cpp will compute other numbers than Ordito, because it scales the attention of every Gemma of this shape by "
        f"{usual:.6g}, and this one's by query_pre_attn_scalar is {first.scale:.6g}"
    )


def _pooling(header: Header, reader: Reader) -> Pooling:
    """EmbeddingGemma's pooling: the mean by default, up to two dense layers if the file has them, normalised to length 1."""
    kind = KINDS.get(reader.count("pooling_type", 1), "mean")
    dense: list[Dense] = []
    for name in ("dense_2", "dense_3"):
        for key in (f"{name}_feat_in", f"{name}_feat_out"):
            reader.get(key, None)
        if f"{name}.weight" in header.shapes:
            d_out, d_in = header.shapes[f"{name}.weight"]
            dense.append(Dense(name=f"dense_{len(dense)}", d_in=d_in, d_out=d_out))
    return Pooling(kind=kind, dense=tuple(dense), normalise=True)


def _sliding(reader: Reader, n_layers: int, period: int) -> list[bool]:
    """Which layers have a sliding window: by a list of flags, or all but every n-th, n being `period` by default."""
    key = "attention.sliding_window_pattern"
    if isinstance(reader.get(key, period), (list, tuple)):
        flags = [bool(flag) for flag in reader.items(key)]
        if len(flags) < n_layers:
            raise reader.fail(key, flags, f"{n_layers} flags")
        return flags[:n_layers]
    pattern = reader.size(key, period)
    return [(i + 1) % pattern != 0 for i in range(n_layers)]


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attentions, generation = leaves(spec, Attention), LABELS[spec.architecture]
    first, two_sided = attentions[0], label(spec) == "gemma-embedding"
    full = next((a for a in attentions if a.window is None), first)
    assert full.rope is not None, "a Gemma layer has rotary positions"
    metadata_value(first.causal or two_sided, True, "bidirectional attention in a model with a head")
    metadata = metadata_from_sizes(spec, "gelu_tanh") | metadata_from_rope(full.rope)
    if generation == 1:
        return metadata
    local = next((a for a in attentions if a.window is not None), None)
    if local is not None and local.rope is not None and local.window is not None:
        window = 2 * (local.window - 1) if two_sided else local.window
        metadata |= {"attention.sliding_window": window, "rope.freq_base_swa": local.rope.theta}
    metadata |= {
        "attention.sliding_window_pattern": [a.window is not None for a in attentions],
        "attention.scale": first.scale,
    }
    if two_sided and spec.pooling is not None:
        metadata["pooling_type"] = next(number for number, kind in KINDS.items() if kind == spec.pooling.kind)
    if first.softcap is not None:
        metadata["attn_logit_softcapping"] = first.softcap
    if isinstance(spec.head, Head) and spec.head.softcap is not None:
        metadata["final_logit_softcapping"] = spec.head.softcap
    return metadata


def label(spec: Spec) -> str:
    """`general.architecture`: bidirectional models without a head are embedding models."""
    two_sided = not leaves(spec, Attention)[0].causal and spec.head is None
    return "gemma-embedding" if two_sided else spec.architecture.removesuffix("_text")


def shifted(spec: Spec, name: str) -> Transform | None:
    """GGUF stores norms' weights as 1 + w."""
    return Shifted(1.0) if name.endswith("norm.weight") else None


GGUF_NAMES = Names(
    {
        **llama.GGUF_NAMES.table,
        "layers.{}.attention.q_norm": "blk.{}.attn_q_norm",
        "layers.{}.attention.k_norm": "blk.{}.attn_k_norm",
        "layers.{}.attention_post_norm": "blk.{}.post_attention_norm",
        "layers.{}.mlp_post_norm": "blk.{}.post_ffw_norm",
        "dense_0": "dense_2",
        "dense_1": "dense_3",
    },
    transform=shifted,
)

GGUF_GEMMA = GGUF(
    architectures=tuple(GENERATIONS),
    spec_from_header=spec_from_header,
    metadata_from_spec=metadata_from_spec,
    names=lambda spec: GGUF_NAMES,
    label=label,
    caveat=caveat,
)
