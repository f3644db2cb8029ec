"""The architecture of T5 and Switch Transformer, built for config.json (t5.py) and GGUF metadata (t5_gguf.py) alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ordito.families.naming import As
from ordito.spec import (
    Attention,
    Block,
    Chain,
    Embedding,
    Head,
    Norm,
    RelativeBias,
    Residual,
    Spec,
    Stack,
)

T5, SWITCH = "t5", "switch_transformers"


def build(
    *,
    label: str,
    vocab_size: int,
    d_model: int,
    n_heads: int,
    head_dim: int,
    eps: float,
    context: int,
    bias: RelativeBias,
    encoder: list[Block],
    decoder: list[Block],
    head: Head | None,
) -> Spec:
    """The spec of a T5; `encoder` and `decoder` hold the feed-forward, or mixture of experts, of each of their layers.

    Without decoder layers the encoder is the body.
    """

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="rms", d_model=d_model, eps=eps)

    def sublayer(name: str, block: Block) -> Residual:
        return Residual(Chain(norm(f"{name}_norm"), block))

    def self_attention(number: int, causal: bool) -> Residual:
        relative = RelativeBias(n_buckets=bias.n_buckets, max_distance=bias.max_distance, shared=number > 0)
        return sublayer("attention", Attention(**shape, causal=causal, relative_bias=relative))

    shape: dict[str, Any] = {
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": head_dim,
        "scale": 1.0,
    }
    cross = Attention(name="cross", causal=False, cross=True, **shape)
    encoder_layers = [Chain(self_attention(i, causal=False), sublayer("mlp", mlp)) for i, mlp in enumerate(encoder)]
    decoder_layers = [
        Chain(self_attention(i, causal=True), sublayer("cross", cross), sublayer("mlp", mlp)) for i, mlp in enumerate(decoder)
    ]
    embedding = Embedding(vocab_size=vocab_size, d_model=d_model)
    encode = (Stack(name="encoder", layers=tuple(encoder_layers)), norm("encoder_norm"))
    if not decoder:
        return Spec(architecture=label, context=context, body=Chain(embedding, *encode))
    return Spec(
        architecture=label,
        context=context,
        body=Chain(embedding, Stack(layers=tuple(decoder_layers)), norm("norm")),
        encoder=Chain(*encode),
        head=head,
    )


Table = dict[str | tuple[str, ...], str | As]


def stack_names(ours: str, theirs: str, parts: Callable[[str], Table]) -> Table:
    """The table of a stack of layers called `ours`, from `parts(ours)`, the table of the names within one of its layers."""
    return {f"{ours}.{{}}.{key}": f"{theirs}.{value}" for key, value in parts(ours).items()}
