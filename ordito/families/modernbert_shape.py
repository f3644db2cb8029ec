"""The architecture of ModernBERT, built for config.json (modernbert.py) and GGUF metadata (modernbert_gguf.py) alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ordito.families.config import FULL, QKVO_BIAS, SLIDING
from ordito.spec import (
    Activation,
    Attention,
    Block,
    Chain,
    Dense,
    Embedding,
    FeedForward,
    Head,
    Norm,
    Pooling,
    Residual,
    Rope,
    Spec,
    Stack,
)


def build(
    *,
    vocab_size: int,
    d_model: int,
    n_heads: int,
    d_ff: int,
    context: int,
    eps: float,
    windows: Sequence[int | None],
    ropes: Mapping[str, Rope],
    activation: Activation = "gelu",
    norm_bias: bool = False,
    attention_bias: bool = False,
    mlp_bias: bool = False,
    transform: Dense | None = None,
    head: Head | None = None,
    pooling: Pooling | None = None,
) -> Spec:
    """The spec of a ModernBERT; `windows` has an entry for each layer (None: full attention), `ropes` one for each kind."""

    def norm(name: str) -> Norm:
        return Norm(name=name, kind="layer", d_model=d_model, eps=eps, bias=norm_bias)

    def layer(number: int, window: int | None) -> Block:
        attention = Attention(
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=d_model // n_heads,
            scale=(d_model // n_heads) ** -0.5,
            bias=QKVO_BIAS if attention_bias else (),
            causal=False,
            window=window,
            rope=ropes[FULL if window is None else SLIDING],
        )
        # The first layer has no norm before attention: its input comes from the norm after the embedding.
        attend = attention if number == 0 else Chain(norm("attention_norm"), attention)
        return Chain(Residual(attend), Residual(Chain(norm("mlp_norm"), mlp)))

    mlp = FeedForward(d_model=d_model, d_ff=d_ff, activation=activation, gated=True, bias=mlp_bias)
    stack = Stack(layers=tuple(layer(i, window) for i, window in enumerate(windows)))
    embedding = Embedding(vocab_size=vocab_size, d_model=d_model)
    return Spec(
        architecture="modernbert",
        context=context,
        body=Chain(embedding, norm("embedding_norm"), stack, norm("norm")),
        head=Chain(transform, norm("head_norm"), head) if transform and head else None,
        pooling=pooling,
    )
