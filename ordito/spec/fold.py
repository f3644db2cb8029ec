"""Layers -> what repeats in them: `26 x [...]`, or `5 x [5 local + 1 global] + 2 local`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ordito.spec.attention import Attention
from ordito.spec.combinators import Parts, Residual
from ordito.spec.node import Block

LONGEST_PERIOD = 64
"""Layers. Periods are sought up to here, so that folding takes time in proportion to the layers, whatever they are."""


@dataclass(frozen=True)
class Run:
    """`times` layers in a row that are alike. `layer` is the first of them, and `first` its number in the stack."""

    first: int
    times: int
    layer: Block


@dataclass(frozen=True)
class Group:
    """`runs`, one after the other, `times` over. A group of one run is repeated once: the run says how often."""

    times: int
    runs: tuple[Run, ...]

    @property
    def first(self) -> int:
        """The number of its first layer in the stack."""
        return self.runs[0].first

    @property
    def period(self) -> int:
        """Layers in one repetition."""
        return sum(run.times for run in self.runs)

    @property
    def n_layers(self) -> int:
        """Layers in all."""
        return self.times * self.period


def fold(layers: Sequence[Block]) -> tuple[Group, ...]:
    """The layers of a stack as groups, in order: from each layer on, the period whose repetitions reach farthest.

    Of periods that reach equally far the shortest is taken. Layers are alike if they are equal but for
    `RelativeBias.shared`, which says who owns a table and not what is computed.

    >>> from ordito.spec import Norm
    >>> local, everywhere = Norm(d_model=2, kind="rms", eps=1e-6), Norm(d_model=2, kind="layer", eps=1e-6)
    >>> [(g.times, [run.times for run in g.runs]) for g in fold(([local] * 5 + [everywhere]) * 4 + [local] * 2)]
    [(4, [5, 1]), (1, [2])]
    """
    kinds: dict[Block, int] = {}
    sequence = [kinds.setdefault(alike(layer), len(kinds)) for layer in layers]
    groups, start = [], 0
    while start < len(sequence):
        period, times = _farthest(sequence, start)
        runs = _runs(sequence, layers, start, start + period)
        if len(runs) == 1:
            groups.append(Group(1, (replace(runs[0], times=period * times),)))
        else:
            groups.append(Group(times, runs))
        start += period * times
    return tuple(groups)


def alike(block: Block) -> Block:
    """The block with a table of relative positions of its own, so that blocks that do the same are equal."""
    match block:
        case Attention(relative_bias=bias) if bias is not None:
            return replace(block, relative_bias=replace(bias, shared=False))
        case Residual():
            return Residual(alike(block.inner))
        case Parts():
            return type(block)(*map(alike, block.parts))
    return block


def _farthest(sequence: list[int], start: int) -> tuple[int, int]:
    """The period that, repeated from `start`, covers most, and how often it stands there; (1, 1) if nothing repeats."""
    best = (1, 1)
    for period in range(1, min(LONGEST_PERIOD, (len(sequence) - start) // 2) + 1):
        end = start + period
        while end < len(sequence) and sequence[end] == sequence[end - period]:
            end += 1
        times = (end - start) // period
        if times > 1 and period * times > best[0] * best[1]:
            best = (period, times)
    return best


def _runs(sequence: list[int], layers: Sequence[Block], start: int, end: int) -> tuple[Run, ...]:
    runs: list[Run] = []
    for number in range(start, end):
        if number > start and sequence[number] == sequence[number - 1]:
            runs[-1] = replace(runs[-1], times=runs[-1].times + 1)
        else:
            runs.append(Run(number, 1, layers[number]))
    return tuple(runs)
