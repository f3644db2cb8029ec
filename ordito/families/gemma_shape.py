"""The architecture of Gemma 1, 2 and 3, built for config.json (gemma.py) and GGUF metadata (gemma_gguf.py) alike."""

from __future__ import annotations

from collections.abc import Sequence

from ordito.families.config import QKVO_BIAS
from ordito.families.decoder import Sizes
from ordito.spec import Block, Chain, Residual, Rope, Spec

LABELS = {"gemma": 1, "gemma2": 2, "gemma3_text": 3}
NORM = {"kind": "rms", "weight_offset": 1.0, "scale_in_fp32": True}
PERIODS = {2: 2, 3: 6}
"""Generation -> n, where by default every n-th layer has full attention."""


def scalar_of(scale: float) -> int:
    """`query_pre_attn_scalar`, a whole number n in transformers: that for which n ** -0.5 is nearest to a factor of scores."""
    return max(1, round(max(scale, 2**-16) ** -2))


def build(
    sizes: Sizes,
    generation: int,
    *,
    scale: float,
    windows: Sequence[int | None],
    ropes: Sequence[Rope],
    attention_softcap: float | None = None,
    final_softcap: float | None = None,
    bias: bool = False,
    causal: bool = True,
) -> Spec:
    """The spec of a Gemma of these sizes; `windows` (None: full attention) and `ropes` have an entry for each layer."""
    norms = {name: sizes.norm(name, sizes.head_dim) for name in ("q_norm", "k_norm")} if generation == 3 else {}

    def sublayer(name: str, block: Block) -> Residual:
        after = (sizes.norm(f"{name}_post_norm"),) if generation > 1 else ()
        return Residual(Chain(sizes.norm(f"{name}_norm"), block, *after))

    def layer(window: int | None, rope: Rope) -> Chain:
        attention = sizes.attention(
            scale=scale,
            bias=QKVO_BIAS if bias else (),
            causal=causal,
            window=window,
            softcap=attention_softcap,
            rope=rope,
            **norms,
        )
        return Chain(sublayer("attention", attention), sublayer("mlp", sizes.mlp()))

    label = next(label for label, number in LABELS.items() if number == generation)
    layers = [layer(window, rope) for window, rope in zip(windows, ropes, strict=True)]
    return sizes.spec(label, layers, softcap=final_softcap)
