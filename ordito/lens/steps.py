"""Spec -> all steps that are computed for one token, without values. Standard library only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ordito.lens import attending, feeding, plain
from ordito.lens.step import Addition, Step, Where
from ordito.spec import (
    Attention,
    Block,
    Chain,
    Dense,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Pooling,
    Residual,
    Spec,
    Stack,
    Sum,
)
from ordito.units import plural

if TYPE_CHECKING:
    from ordito.lens.numbers import Guess

STEPS: dict[type[Block], Callable[[Any, str, str, str, Where], list[Step]]] = {
    Attention: attending.attention,
    Dense: plain.dense,
    Embedding: plain.embedding,
    FeedForward: feeding.feed_forward,
    Head: plain.head,
    LatentAttention: attending.latent,
    MixtureOfExperts: feeding.mixture,
    Norm: plain.norm,
}
"""Leaf block of the spec -> its steps: (block, path, symbol of the input, symbol of the output, where the token is)."""

SYMBOLS: dict[type[Block], str] = {
    Attention: "o",
    Dense: "h",
    FeedForward: "m",
    LatentAttention: "o",
    MixtureOfExperts: "m",
    Norm: "h",
}
"""Symbols of block outputs on a branch; the residual stream itself is x."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """The steps of a layer, or of the blocks before, between or after layers.

    `layer` is the layer's index, `block` its tree; `encoder` says that the token is one of the source. `guess` is the logit
    lens: the most probable token if the layers ended here.
    """

    path: str
    steps: tuple[Step, ...]
    layer: int | None = None
    block: Block | None = None
    encoder: bool = False
    guess: Guess | None = None

    @property
    def title(self) -> str:
        """The name of the section: its layer, or its first block."""
        name = self.path if self.layer is None else f"layer {self.layer}"
        return f"encoder {name}" if self.encoder and not name.startswith("encoder") else name


def sections(spec: Spec, where: Where, source: Where | None = None) -> list[Section]:
    """All steps of the token at `where`, in order of computation.

    For an encoder-decoder, the steps of the encoder's token at `source` come first. Multi-token prediction is left out: the
    next token does not need it.
    """
    found = []
    if spec.encoder is not None:
        there = source or Where()
        found += list(_sections(Chain(spec.embedding, spec.encoder), "", there, encoder=True))
        where = replace(where, source_length=there.length)
    found += list(_sections(spec.body, "", where))
    if spec.head is not None:
        found += list(_sections(spec.head, "", where))
    if spec.pooler is not None:
        (step,) = plain.dense(spec.pooler, spec.pooler.name, "x_0", "h", where)
        found.append(Section(path=step.path, steps=(replace(step, notes=(*step.notes, "x_0: x of the first token")),)))
    if spec.pooling is not None:
        found.append(Section(path="pooling", steps=tuple(_pooling(spec.pooling))))
    return found


def _sections(block: Block, prefix: str, where: Where, *, encoder: bool = False) -> Iterator[Section]:
    """The sections of a tree whose input are token ids or the residual stream."""
    together: list[Step] = []
    for part in _flatten(block):
        if isinstance(part, Stack):
            if together:
                yield Section(path=together[0].path, steps=tuple(together), encoder=encoder)
            together = []
            for number, layer in enumerate(part.layers):
                path = f"{part.name}.{number}"
                steps, _ = _walk(layer, f"{path}.", "x", where, branch=False)
                yield Section(path=path, steps=_link_additions(steps, path), layer=number, block=layer, encoder=encoder)
        else:
            steps, _ = _walk(part, prefix, "x", where, branch=False)
            together += steps
    if together:
        yield Section(path=together[0].path, steps=_link_additions(together, ""), encoder=encoder)


def _flatten(block: Block) -> Iterator[Block]:
    """The parts of a chain, nested chains flattened."""
    for part in block.parts if isinstance(block, Chain) else (block,):
        yield from _flatten(part) if isinstance(part, Chain) else (part,)


def _walk(block: Block, prefix: str, x: str, where: Where, *, branch: bool) -> tuple[list[Step], str]:
    """The steps of a tree whose input has the symbol `x`, and the symbol of its output."""
    match block:
        case Chain():
            steps = []
            for part in block.parts:
                more, x = _walk(part, prefix, x, where, branch=branch)
                steps += more
            return steps, x
        case Sum():
            walked = [_walk(part, prefix, x, where, branch=branch) for part in block.parts]
            return [step for steps, _ in walked for step in steps], " + ".join(symbol for _, symbol in walked)
        case Residual():
            steps, added = _walk(block.inner, prefix, x, where, branch=True)
            last = steps[-1]
            addition = Addition(path=last.path, formula=f"{x} = {x} + {added}", shape=last.shape, added=_kinds(block.inner))
            return [*steps, addition], x
        case Head():
            out = "z"
        case _:
            out = SYMBOLS.get(type(block), "x") if branch else "x"
    path = prefix + getattr(block, "name")  # noqa: B009 - every leaf has a name
    return STEPS[type(block)](block, path, x, out, where), out


def _kinds(block: Block) -> str:
    """A short name of what a branch adds to the stream."""
    match block:
        case Chain():
            return next((kind for part in block.parts if (kind := _kinds(part)) != "norm"), "norm")
        case Sum():
            return " + ".join(map(_kinds, block.parts))
        case Attention():
            return "cross" if block.cross else "attention"
        case LatentAttention():
            return "attention"
        case MixtureOfExperts():
            return "experts"
        case FeedForward():
            return "mlp"
        case Norm():
            return "norm"
    return str(getattr(block, "name", type(block).__name__))


def _link_additions(steps: list[Step], layer: str) -> tuple[Step, ...]:
    """The steps, with the recording keys of the residual stream before and after each addition.

    The stream after an addition is the input of the next block, or the output of the layer.
    """
    joined, before = [], (layer, "input")
    for number, step in enumerate(steps):
        if isinstance(step, Addition):
            following = steps[number + 1] if number + 1 < len(steps) else None
            after = (following.path, "input") if following else (layer, "output")
            step = replace(step, before=before, recorded=after)
            before = after
        elif step.formula.startswith("x = "):  # a norm on the stream itself
            before = (step.path, "output")
        joined.append(step)
    return tuple(joined)


def _pooling(block: Pooling) -> Iterator[Step]:
    """The steps from hidden states to the embedding of the text."""
    how = {"cls": "e = x of the first token", "mean": "e = mean of x over all tokens", "last": "e = x of the last token"}
    limit = (f"texts of up to {plural(block.max_tokens, 'token')}",) if block.max_tokens else ()
    yield Step(path="pooling", formula=how[block.kind], notes=limit)
    for dense in block.dense:
        yield from plain.dense(dense, dense.name, "e", "e", Where())
    if block.normalise:
        yield Step(path="pooling", formula="e = e / sqrt(sum(e^2))", notes=("L2 norm 1",))
