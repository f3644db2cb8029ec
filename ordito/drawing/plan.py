"""A spec -> the plan of its drawing: columns of blocks and folded layers, and the distinct kinds of layers."""

from __future__ import annotations

from dataclasses import dataclass

from ordito.drawing.sizes import parameters
from ordito.spec import (
    Attention,
    Block,
    Chain,
    FeedForward,
    LatentAttention,
    MixtureOfExperts,
    NextToken,
    Pooling,
    Residual,
    Spec,
    Stack,
    Sum,
    fold,
)
from ordito.spec.combinators import Parts
from ordito.spec.fold import alike

MOST_KINDS = 6
"""Kinds of layers that are drawn and compared at most; the others are counted."""


@dataclass(frozen=True)
class Kind:
    """A distinct layer: its letter, a short `name` of its differences from the others, and the number of such layers.

    `side` is `encoder` or `decoder` in an encoder-decoder. Layers of multi-token prediction are not counted: `times` is 0 for a
    kind that only they have.
    """

    letter: str
    side: str
    name: str
    layer: Block
    times: int

    @property
    def title(self) -> str:
        """Its side and name, or "" where there is only one kind."""
        return ", ".join(word for word in (self.side, self.name) if word)

    @property
    def parameters(self) -> int:
        """Parameters of one such layer."""
        return parameters(self.layer)


@dataclass(frozen=True)
class Repeat:
    """Folded layers: groups (times, runs), each a sequence of runs (number of layers, index of their kind in the plan)."""

    groups: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]


Stage = Block | Repeat
"""A part of a column: a leaf, or folded layers."""


@dataclass(frozen=True)
class Plan:
    """The parts of a drawing. `outlets` read the hidden states in parallel: head, pooler, embedding."""

    body: tuple[Stage, ...]
    encoder: tuple[Stage, ...]
    outlets: tuple[tuple[Block | Pooling, ...], ...]
    kinds: tuple[Kind, ...]
    ahead: tuple[tuple[int, NextToken, int], ...]
    """Kinds of multi-token prediction modules: their number, the first of them, and the index of its layer's kind."""

    @property
    def drawn(self) -> tuple[Kind, ...]:
        """The kinds that get a card."""
        return self.kinds[:MOST_KINDS]


def plan(spec: Spec) -> Plan:
    """The plan of a drawing."""
    kinds = _Kinds()
    encoder = kinds.stages(spec.encoder) if spec.encoder is not None else ()
    body = kinds.stages(spec.body)
    ahead: dict[Block, tuple[int, NextToken, int]] = {}
    for module in spec.ahead:
        times, first, kind = ahead.get(module, (0, module, kinds.number(module.layer, 0)))
        ahead[module] = (times + 1, first, kind)
    outlets: list[tuple[Block | Pooling, ...]] = []
    if spec.head is not None:
        outlets.append(tuple(flat(spec.head)))
    if spec.pooler is not None:
        outlets.append((spec.pooler,))
    if spec.pooling is not None:
        outlets.append((spec.pooling, *spec.pooling.dense))
    return Plan(body, encoder, tuple(outlets), kinds.named(), tuple(ahead.values()))


class _Kinds:
    """The distinct layers found so far, with their counts."""

    def __init__(self) -> None:
        self.numbers: dict[Block, int] = {}
        self.times: list[int] = []

    def number(self, layer: Block, times: int) -> int:
        """The index of a layer's kind, which is added if new; its count grows by `times`."""
        number = self.numbers.setdefault(alike(layer), len(self.numbers))
        if number == len(self.times):
            self.times.append(0)
        self.times[number] += times
        return number

    def stages(self, block: Block) -> tuple[Stage, ...]:
        """The stages of a block, bottom to top; a block that is neither a leaf nor a stack counts as one layer."""
        stages: list[Stage] = []
        for part in flat(block):
            if isinstance(part, (Stack, Residual, Sum)):
                layers = part.layers if isinstance(part, Stack) else (part,)
                stages += [self._repeat(layers)] if layers else []
            else:
                stages.append(part)
        return tuple(stages)

    def _repeat(self, layers: tuple[Block, ...]) -> Repeat:
        return Repeat(
            tuple(
                (group.times, tuple((run.times, self.number(run.layer, group.times * run.times)) for run in group.runs))
                for group in fold(layers)
            )
        )

    def named(self) -> tuple[Kind, ...]:
        """The kinds, in order of occurrence."""
        leaves = [leaves_of(layer) for layer in self.numbers]
        traits = [(_side(each), _reach(each), _experts(each)) for each in leaves]
        side, *differing = [len(set(trait)) > 1 for trait in zip(*traits, strict=True)] or [False]
        return tuple(
            Kind(
                letter(i),
                trait[0] if side else "",
                ", ".join(word for word, differs in zip(trait[1:], differing, strict=True) if differs and word),
                layer,
                self.times[i],
            )
            for i, (trait, layer) in enumerate(zip(traits, self.numbers, strict=True))
        )


def letter(number: int) -> str:
    """A, B, ... Z, then numbers.

    >>> letter(0), letter(25), letter(26)
    ('A', 'Z', '27')
    """
    return chr(ord("A") + number) if number < 26 else str(number + 1)


def _side(leaves: list[Block]) -> str:
    return "decoder" if any(isinstance(leaf, Attention) and leaf.cross for leaf in leaves) else "encoder"


def _reach(leaves: list[Block]) -> str:
    bounds = [
        "local" if isinstance(leaf, Attention) and (leaf.window or leaf.chunk or leaf.block_sparse) else "global"
        for leaf in leaves
        if isinstance(leaf, LatentAttention) or (isinstance(leaf, Attention) and not leaf.cross)
    ]
    return " and ".join(dict.fromkeys(bounds))


def _experts(leaves: list[Block]) -> str:
    kinds = {MixtureOfExperts: "experts", FeedForward: "dense"}
    return " and ".join(dict.fromkeys(kinds[type(leaf)] for leaf in leaves if type(leaf) in kinds))


def leaves_of(block: Block) -> list[Block]:
    """Every leaf of a layer, in order."""
    match block:
        case Residual():
            return leaves_of(block.inner)
        case Stack():
            return [leaf for layer in block.layers for leaf in leaves_of(layer)]
        case Parts():
            return [leaf for part in block.parts for leaf in leaves_of(part)]
    return [block]


def flat(block: Block) -> list[Block]:
    """The parts of a chain, nested chains flattened."""
    return [leaf for part in block.parts for leaf in flat(part)] if isinstance(block, Chain) else [block]
