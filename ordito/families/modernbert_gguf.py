"""ModernBERT in GGUF files."""

from __future__ import annotations

from typing import Any

from ordito.families.bert import POOLINGS, pooling_type
from ordito.families.config import (
    ACTIVATIONS,
    FULL,
    PUBLISHED,
    SLIDING,
    head_size,
    layer_types,
    leaves,
    metadata_value,
    widest_window,
)
from ordito.families.family import GGUF, Header
from ordito.families.modernbert_shape import build
from ordito.families.naming import GATE_UP, QKV, Names
from ordito.spec import Attention, FeedForward, Norm, Rope, Spec


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `modern-bert`; its files have neither biases nor a head."""
    reader = header.reader()
    d_model, n_heads = reader.size("embedding_length"), reader.size("attention.head_count")
    head_dim, context = head_size(reader, d_model, n_heads), reader.size("context_length")
    n_layers, every = reader.bounded("block_count"), reader.size("attention.sliding_window_pattern", 3)
    reader.must_be("attention.causal", False)
    reader.must_be("rope.scaling.type", "none")
    pooling = reader.count("pooling_type", 0)
    if pooling not in POOLINGS:
        raise reader.fail("pooling_type", pooling, f"one of {sorted(POOLINGS)}")
    window = reader.size("attention.sliding_window", 128) // 2 + 1
    thetas = {FULL: reader.real("rope.freq_base", 160000.0), SLIDING: reader.real("rope.freq_base_swa", 10000.0)}
    spec = build(
        vocab_size=header.shapes["token_embd.weight"][0],
        d_model=d_model,
        n_heads=n_heads,
        d_ff=reader.size("feed_forward_length"),
        context=context,
        eps=reader.real("attention.layer_norm_epsilon"),
        windows=[window if i % every else None for i in range(n_layers)],
        ropes={kind: Rope(dim=head_dim, theta=theta) for kind, theta in thetas.items()},
        activation=reader.choice("hidden_activation", ACTIVATIONS, "gelu"),
        pooling=POOLINGS[pooling],
    )
    reader.finish({"vocab_size", "attention.head_count_kv", "rope.dimension_count", "token_type_count"})
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    attentions, mlp = leaves(spec, Attention), leaves(spec, FeedForward)[0]
    metadata_value(spec.head is not None, False, "a masked-language-model head")
    full = [i for i, attention in enumerate(attentions) if attention.window is None]
    thetas = {layer: a.rope.theta for layer, a in zip(layer_types(spec), attentions, strict=True) if a.rope}
    return {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "block_count": spec.n_layers,
        "feed_forward_length": mlp.d_ff,
        "attention.head_count": attentions[0].n_heads,
        "attention.layer_norm_epsilon": leaves(spec, Norm)[0].eps,
        "attention.causal": False,
        "attention.sliding_window": 2 * ((widest_window(spec) or 65) - 1),
        "attention.sliding_window_pattern": full[1] if len(full) > 1 else spec.n_layers,
        "rope.freq_base": thetas.get(FULL, 160000.0),
        "rope.freq_base_swa": thetas.get(SLIDING, 10000.0),
        "rope.scaling.type": "none",
        "hidden_activation": PUBLISHED[mlp.activation],
        **({"pooling_type": pooling_type(spec)} if spec.pooling else {}),
    }


GGUF_NAMES = Names(
    {
        "embedding.tokens": "token_embd",
        "embedding_norm": "token_embd_norm",
        "layers.{}.attention_norm": "blk.{}.attn_norm",
        QKV: "blk.{}.attn_qkv",
        "layers.{}.attention.o": "blk.{}.attn_output",
        "layers.{}.mlp_norm": "blk.{}.ffn_norm",
        GATE_UP: "blk.{}.ffn_up",
        "layers.{}.mlp.down": "blk.{}.ffn_down",
        "norm": "output_norm",
    }
)

MODERN_BERT = GGUF(
    architectures=("modern-bert",),
    spec_from_header=spec_from_header,
    metadata_from_spec=metadata_from_spec,
    names=lambda spec: GGUF_NAMES,
    label=lambda spec: "modern-bert",
)
