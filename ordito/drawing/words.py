"""Descriptions of blocks: their names, and every setting that changes what they compute."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, sqrt
from typing import Literal

from ordito.drawing.attention_words import attention_facts, attention_title, latent_facts
from ordito.drawing.facts import Fact
from ordito.drawing.feedforward_words import feed_forward_facts, feed_forward_title, mixture_facts
from ordito.drawing.norm_words import norm_settings, norm_title
from ordito.drawing.sizes import number, parameters
from ordito.spec import (
    Attention,
    Block,
    Dense,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Pooling,
)

Colour = Literal["embedding", "norm", "attention", "mlp", "mixture", "dense", "head", "layer"]
"""The kinds of blocks that have colours in the themes."""

LONGEST_NAME = 80
"""Characters of a block's name that are shown, at most."""
Leaf = Block | Pooling
"""A block or a pooling: what `label` describes."""


@dataclass(frozen=True)
class Label:
    """The text on a block. `new` says that the architecture it is compared with has no such block in its place."""

    colour: Colour
    title: str
    facts: tuple[Fact, ...] = ()
    parameters: int | None = None
    new: bool = False


def label(block: Leaf) -> Label:
    """The label of a leaf of a spec."""
    match block:
        case Pooling():
            return Label("dense", "Pooling", _pooling(block))
        case Attention():
            return Label("attention", attention_title(block), attention_facts(block), parameters(block))
        case LatentAttention():
            return Label("attention", "Multi-head latent attention", latent_facts(block), parameters(block))
        case FeedForward():
            return Label("mlp", feed_forward_title(block), feed_forward_facts(block), parameters(block))
        case MixtureOfExperts():
            return Label("mixture", "Mixture of experts", mixture_facts(block), parameters(block))
        case Norm():
            return Label("norm", norm_title(block), (Fact("", norm_settings(block)),), parameters(block))
        case Embedding():
            return Label("embedding", "Token embedding", _embedding(block), parameters(block))
        case Head():
            return Label("head", "LM head", _head(block), parameters(block))
        case Dense():
            return Label("dense", block.name[:LONGEST_NAME].replace("_", " ").capitalize(), _dense(block), parameters(block))
    return Label("dense", type(block).__name__, (), parameters(block))


def _embedding(block: Embedding) -> tuple[Fact, ...]:
    facts = [Fact("size", f"{block.vocab_size:,} × {block.d_model:,}")]
    if block.scale != 1:
        root = " = √d_model" if isclose(block.scale, sqrt(block.d_model), rel_tol=1e-6) else ""
        facts.append(Fact("scale", f"× {number(block.scale)}{root}"))
    if block.n_positions:
        first = f", offset {block.first_position}" if block.first_position else ""
        facts.append(Fact("positions", f"{block.n_positions:,} learned{first}"))
    if block.n_types:
        facts.append(Fact("types", f"{block.n_types}, type 0 is used"))
    return tuple(facts)


def _head(block: Head) -> tuple[Fact, ...]:
    facts = [
        Fact("size", f"{block.d_model:,} → {block.vocab_size:,}"),
        Fact("weight", "tied to embedding" if block.tied else "not tied"),
    ]
    if block.bias:
        facts.append(Fact("bias", "yes"))
    if block.scale != 1:
        facts.append(Fact("scale", f"× {number(block.scale)}"))
    if block.softcap is not None:
        facts.append(Fact("soft-cap", number(block.softcap)))
    if block.unused:
        ids = f"{min(block.unused):,} to {max(block.unused):,}" if len(block.unused) > 1 else f"{block.unused[0]:,}"
        facts.append(Fact("unused", f"{len(block.unused):,} ids, {ids}"))
    return tuple(facts)


def _dense(block: Dense) -> tuple[Fact, ...]:
    facts = [Fact("size", f"{block.d_in:,} → {block.d_out:,}")]
    if block.activation:
        facts.append(Fact("activation", block.activation))
    if block.bias:
        facts.append(Fact("bias", "yes"))
    return tuple(facts)


def _pooling(pooling: Pooling) -> tuple[Fact, ...]:
    which = {"cls": "first token", "mean": "mean over tokens", "last": "last token"}
    facts = [Fact("method", which[pooling.kind])]
    if pooling.normalise:
        facts.append(Fact("normalised", "to L2 norm 1"))
    if pooling.max_tokens is not None:
        facts.append(Fact("max length", f"{pooling.max_tokens:,} tokens"))
    return tuple(facts)
