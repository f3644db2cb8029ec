"""The shape of T5's models, which their config.json and their GGUF metadata both describe."""

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
    """The spec; `encoder` and `decoder` are the feed-forwards of their layers. Without a decoder the encoder is the body."""

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="rms", d_model=d_model, eps=eps)

    def half(name: str, block: Block) -> Residual:
        return Residual(Chain(norm(f"{name}_norm"), block))

    def attention(number: int, causal: bool) -> Attention:
        relative = RelativeBias(n_buckets=bias.n_buckets, max_distance=bias.max_distance, shared=number > 0)
        return Attention(**shape, causal=causal, relative_bias=relative)

    shape: dict[str, Any] = {
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": n_heads,
        "head_dim": head_dim,
        "scale": 1.0,
    }
    cross = Attention(name="cross", causal=False, cross=True, **shape)
    reads = [Chain(half("attention", attention(i, False)), half("mlp", mlp)) for i, mlp in enumerate(encoder)]
    writes = [
        Chain(half("attention", attention(i, True)), half("cross", cross), half("mlp", mlp)) for i, mlp in enumerate(decoder)
    ]
    embedding = Embedding(vocab_size=vocab_size, d_model=d_model)
    reader = (Stack(name="encoder", layers=tuple(reads)), norm("encoder_norm"))
    if not decoder:
        return Spec(architecture=label, context=context, body=Chain(embedding, *reader))
    return Spec(
        architecture=label,
        context=context,
        body=Chain(embedding, Stack(layers=tuple(writes)), norm("norm")),
        encoder=Chain(*reader),
        head=head,
    )


def numbers(spec: Spec, stack: str, kind: type[Block]) -> list[int]:
    """The layers of a stack that have such a leaf."""
    return [int(path.split(".")[1]) for path, leaf in spec.leaves() if path.startswith(stack) and isinstance(leaf, kind)]


Table = dict[str | tuple[str, ...], str | As]


def stack(ours: str, theirs: str, parts: Callable[[str], Table]) -> Table:
    """The names of all layers of a stack, from those within a layer."""
    return {f"{ours}.{{}}.{key}": f"{theirs}.{value}" for key, value in parts(ours).items()}
