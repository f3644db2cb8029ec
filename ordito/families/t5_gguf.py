"""T5 in GGUF files."""

from __future__ import annotations

from typing import Any

from ordito.families.config import layers_with, leaves, metadata_value
from ordito.families.family import GGUF, Header
from ordito.families.naming import Names
from ordito.families.t5_shape import T5, Table, build, stack_names
from ordito.spec import Attention, Block, FeedForward, Head, Norm, RelativeBias, Spec


def spec_from_header(header: Header) -> Spec:
    """GGUF metadata of `t5` and `t5encoder`. There are no keys for the activation, the scale of a tied head's input and the
    largest distance of the relative bias: those of the releases."""
    reader = header.reader()
    d_model, n_layers = reader.size("embedding_length"), reader.bounded("block_count")
    n_decoder = reader.bounded("decoder_block_count", n_layers)
    gated = "enc.blk.0.ffn_gate.weight" in header.shapes
    reader.get("attention.layer_norm_epsilon", None)
    reader.must_be("attention.value_length", head_dim := reader.size("attention.key_length"))
    vocab_size = header.shapes["token_embd.weight"][0]
    mlp: Block = FeedForward(
        d_model=d_model,
        d_ff=reader.size("feed_forward_length"),
        activation="gelu_tanh" if gated else "relu",
        gated=gated,
    )
    tied = "output.weight" not in header.shapes
    spec = build(
        label=T5,
        vocab_size=vocab_size,
        d_model=d_model,
        n_heads=reader.size("attention.head_count"),
        head_dim=head_dim,
        eps=reader.real("attention.layer_norm_rms_epsilon"),
        context=reader.size("context_length"),
        bias=RelativeBias(n_buckets=reader.size("attention.relative_buckets_count"), max_distance=128),
        encoder=[mlp] * n_layers,
        decoder=[mlp] * n_decoder if header.architecture == "t5" else [],
        head=Head(d_model=d_model, vocab_size=vocab_size, tied=tied, scale=d_model**-0.5 if tied else 1.0),
    )
    reader.finish({"decoder_start_token_id", "vocab_size"})
    return spec


def metadata_from_spec(spec: Spec) -> dict[str, Any]:
    """The inverse of `spec_from_header`."""
    metadata_value(spec.architecture, T5, "experts")
    first, mlp, eps = leaves(spec, Attention)[0], leaves(spec, FeedForward)[0], leaves(spec, Norm)[0].eps
    assert first.relative_bias is not None, "T5's positions are relative biases"
    metadata_value(mlp.activation, "gelu_tanh" if mlp.gated else "relu", "the activation")
    return {
        "context_length": spec.context,
        "embedding_length": spec.d_model,
        "feed_forward_length": mlp.d_ff,
        "block_count": len(layers_with(spec, Attention, "encoder")),
        **({"decoder_block_count": spec.n_layers, "decoder_start_token_id": 0} if spec.encoder else {}),
        "attention.head_count": first.n_heads,
        "attention.key_length": first.head_dim,
        "attention.value_length": first.head_dim,
        "attention.layer_norm_epsilon": eps,
        "attention.layer_norm_rms_epsilon": eps,
        "attention.relative_buckets_count": first.relative_bias.n_buckets,
    }


def names(spec: Spec) -> Names:
    """GGUF's names."""

    def layer(ours: str) -> Table:
        attention: Table = {f"attention.{p}": f"attn_{p}" for p in "qkvo"}
        cross: Table = {f"cross.{p}": f"cross_attn_{p}" for p in "qkvo"}
        return {
            "attention_norm": "attn_norm",
            **attention,
            "attention.relative_bias": "attn_rel_b",
            **(cross | {"cross_norm": "cross_attn_norm"} if ours == "layers" else {}),
            "mlp_norm": "ffn_norm",
            **{f"mlp.{part}": f"ffn_{part}" for part in ("gate", "up", "down")},
        }

    return Names(
        {
            "embedding.tokens": "token_embd",
            **stack_names("encoder", "enc.blk.{}", layer),
            **stack_names("layers", "dec.blk.{}", layer),
            "encoder_norm": "enc.output_norm",
            "norm": "dec.output_norm",
            "head": "output",
        },
        ignored={r"dec\.blk\.\d+\.cross_attn_rel_b\.weight": "transformers never uses it"},
    )


GGUF_T5 = GGUF(
    architectures=("t5", "t5encoder"),
    spec_from_header=spec_from_header,
    metadata_from_spec=metadata_from_spec,
    names=names,
    label=lambda spec: "t5" if spec.encoder else "t5encoder",
)
