"""The repeating pattern of a stack's layers: `26 x [...]`, or `5 x [5 local + 1 global] + 2 local`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ordito.spec.attention import Attention
from ordito.spec.combinators import Parts, Residual
from ordito.spec.node import Block

MAX_PERIOD = 64
"""Layers in the longest period that is looked for, so that folding takes linear time in the number of layers."""


@dataclass(frozen=True)
class Run:
    """`times` equal layers in a row. `layer` is the first of them, and `first` its number in the stack."""

    first: int
    times: int
    layer: Block


@dataclass(frozen=True)
class Group:
    """The sequence of `runs`, repeated `times` times. A group of a single run has `times` 1: the run counts its layers."""

    times: int
    runs: tuple[Run, ...]

    @property
    def first(self) -> int:
        """The number in the stack of the group's first layer."""
        return self.runs[0].first

    @property
    def period(self) -> int:
        """Layers in one repetition."""
        return sum(run.times for run in self.runs)

    @property
    def n_layers(self) -> int:
        """Layers in all repetitions."""
        return self.times * self.period


def fold(layers: Sequence[Block]) -> tuple[Group, ...]:
    """The layers of a stack as groups, in order. Each group has the period whose repetitions cover most of the layers left.

    Of periods that cover equally many the shortest is taken. `RelativeBias.shared`, which says which layer owns a table and
    not what is computed, is ignored when layers are compared.

    >>> from ordito.spec import Norm
    >>> local, everywhere = Norm(d_model=2, kind="rms", eps=1e-6), Norm(d_model=2, kind="layer", eps=1e-6)
    >>> [(g.times, [run.times for run in g.runs]) for g in fold(([local] * 5 + [everywhere]) * 4 + [local] * 2)]
    [(4, [5, 1]), (1, [2])]
    """
    kinds: dict[Block, int] = {}
    sequence = [kinds.setdefault(alike(layer), len(kinds)) for layer in layers]
    groups, start = [], 0
    while start < len(sequence):
        period, times = _best_period(sequence, start)
        runs = _runs(sequence, layers, start, start + period)
        if len(runs) == 1:
            groups.append(Group(1, (replace(runs[0], times=period * times),)))
        else:
            groups.append(Group(times, runs))
        start += period * times
    return tuple(groups)


def alike(block: Block) -> Block:
    """The block with `RelativeBias.shared` set to False, so that blocks that compute the same are equal."""
    match block:
        case Attention(relative_bias=bias) if bias is not None:
            return replace(block, relative_bias=replace(bias, shared=False))
        case Residual():
            return Residual(alike(block.inner))
        case Parts():
            return type(block)(*map(alike, block.parts))
    return block


def _best_period(sequence: list[int], start: int) -> tuple[int, int]:
    """The period whose repetitions from `start` on cover most layers, and their number; (1, 1) if nothing repeats."""
    best = (1, 1)
    for period in range(1, min(MAX_PERIOD, (len(sequence) - start) // 2) + 1):
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
