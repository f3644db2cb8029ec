"""The composition of a layer as formulas: `x + attention(norm(x))`."""

from __future__ import annotations

from ordito.spec.attention import Attention, LatentAttention
from ordito.spec.blocks import Norm
from ordito.spec.combinators import Chain, Residual, Sum
from ordito.spec.feedforward import FeedForward, MixtureOfExperts
from ordito.spec.node import Block

WORDS = {Norm: "norm", LatentAttention: "latent_attention", FeedForward: "mlp", MixtureOfExperts: "experts"}
"""The names of leaves in formulas; other leaves have those of the spec."""


def formulas(layer: Block) -> list[str]:
    """What a layer computes from its input x: formulas in order, each of which gives the x of the next.

    >>> from ordito.families import spec_from_config
    >>> formulas(spec_from_config({"model_type": "gpt2"}).body.parts[1].layers[0])
    ['x + attention(norm(x))', 'x + mlp(norm(x))']
    """
    steps, x = [], "x"
    for part in layer.parts if isinstance(layer, Chain) else (layer,):
        if isinstance(part, Residual) and x != "x":
            steps.append(x)
            x = "x"
        x = _applied(part, x)
    return [*steps, x]


def _applied(block: Block, x: str) -> str:
    match block:
        case Chain():
            for part in block.parts:
                x = _applied(part, x)
            return x
        case Residual():
            return f"{x} + {_applied(block.inner, x)}"
        case Sum():
            return " + ".join(_applied(part, x) for part in block.parts)
    return f"{word(block)}({x})"


def word(leaf: Block) -> str:
    """The name of a leaf in a formula."""
    if isinstance(leaf, Attention) and leaf.cross:
        return "cross_attention"
    return WORDS[type(leaf)] if type(leaf) in WORDS else str(getattr(leaf, "name"))  # noqa: B009 - every leaf has a name
