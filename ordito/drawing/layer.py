"""A layer as a picture, from below to above: boxes on a spine, residual paths around them, and where they join."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ordito.drawing.box import box
from ordito.drawing.glyphs import plus
from ordito.drawing.scene import Figure, Line, Mark, Text, moved
from ordito.drawing.words import Label, Leaf
from ordito.spec import Block, Chain, Norm, Residual, Stack, Sum

GAP = 20.0
"""Length of an arrow between boxes, px."""
ASIDE = 24.0
"""How far a residual path runs from the boxes that it passes, px."""
BETWEEN = 22.0
"""Between branches side by side, px."""
SMALL = 13.0
"""Size of type beside arrows, px."""
PLUS = 9.0
"""Radius of a plus, px."""

Describe = Callable[[str, Leaf], Label]
"""The label of a leaf in its place, which is the combinators above it."""


@dataclass(frozen=True)
class Piece:
    """A figure, and how it is met: whether an arrow ends at its lower edge, and whether a plus is its upper end.

    `gives` is written beside the arrow that leaves it.
    """

    figure: Figure
    solid: bool
    joins: bool = False
    gives: str = ""


def piece(block: Block, describe: Describe, room: float, place: str = "") -> Piece:
    """The picture of a layer, or of a part of it; boxes are `room` px wide."""
    match block:
        case Chain():
            return chain([piece(part, describe, room, f"{place}chain.") for part in block.parts])
        case Residual():
            return _residual(piece(block.inner, describe, room, f"{place}residual."))
        case Sum():
            return _sum([piece(part, describe, room, f"{place}sum.") for part in block.parts])
        case Stack():
            return chain([piece(layer, describe, room, place) for layer in block.layers])
    return Piece(box(describe(place, block), room, block), True)


def role(place: str, leaf: Leaf) -> str:
    """What a leaf is to its layer: its name, and for a norm where it stands as well."""
    name = str(getattr(leaf, "name", type(leaf).__name__))
    return f"{place}{name}" if isinstance(leaf, Norm) else name


def chain(pieces: list[Piece]) -> Piece:
    """The first piece lowest, an arrow from each to the next."""
    spine = max(p.figure.spine for p in pieces)
    width = spine + max(p.figure.width - p.figure.spine for p in pieces)
    height = sum(p.figure.height for p in pieces) + GAP * (len(pieces) - 1)
    marks: list[Mark] = []
    y = height
    for i, each in enumerate(pieces):
        y -= each.figure.height
        marks.extend(moved(each.figure.marks, spine - each.figure.spine, y))
        if i + 1 < len(pieces):
            marks.append(Line(((spine, y), (spine, y - GAP)), arrow=pieces[i + 1].solid))
            if each.gives:
                marks.append(Text(spine + 9, y - GAP / 2 + 5, each.gives, SMALL, "quiet"))
            y -= GAP
    return Piece(Figure(width, height, tuple(marks), spine), pieces[0].solid, pieces[-1].joins)


def _residual(inner: Piece) -> Piece:
    figure, shift = inner.figure, ASIDE
    above = 0.0 if inner.joins else 2 * PLUS + 16
    spine, bottom = figure.spine + shift, above + figure.height
    marks = list(moved(figure.marks, shift, above))
    if not inner.joins:
        marks.append(Line(((spine, above), (spine, 2 * PLUS)), arrow=True))
        marks.extend(plus(spine, PLUS))
    branch, height = bottom + 16, bottom + 20
    marks.append(Line(((spine, height), (spine, bottom)), arrow=inner.solid))
    marks.append(Line(((spine, branch), (8, branch), (8, PLUS), (spine - PLUS, PLUS)), arrow=True))
    return Piece(Figure(figure.width + shift, height, tuple(marks), spine), False, True)


def _sum(pieces: list[Piece]) -> Piece:
    """Side by side on one input. The rightmost comes into the plus from its right, the others from below."""
    row, tops = beside(pieces)
    spine, above = row.spine, 2 * PLUS + 34
    marks = list(moved(row.marks, 0, above))
    for i, (x, top) in enumerate(tops):
        if i + 1 == len(tops) and i > 0:
            marks.append(Line(((x, above + top), (x, PLUS), (spine + PLUS, PLUS)), arrow=True))
        else:
            bus = 2 * PLUS + 18
            marks.append(Line(((x, above + top), (x, bus), (spine, bus), (spine, 2 * PLUS)), arrow=True))
    marks.extend(plus(spine, PLUS))
    return Piece(Figure(row.width, above + row.height, tuple(marks), spine), False, True)


def beside(pieces: list[Piece]) -> tuple[Figure, list[tuple[float, float]]]:
    """Pieces on one input that forks below them, and where each of them ends."""
    width = sum(p.figure.width for p in pieces) + BETWEEN * (len(pieces) - 1)
    bottom = max(p.figure.height for p in pieces)
    spine, fork, height = width / 2, bottom + 14, bottom + 20
    marks: list[Mark] = [Line(((spine, height), (spine, fork)))]
    tops, x = [], 0.0
    for each in pieces:
        top, foot = bottom - each.figure.height, x + each.figure.spine
        marks.extend(moved(each.figure.marks, x, top))
        marks.append(Line(((spine, fork), (foot, fork), (foot, bottom)), arrow=each.solid))
        tops.append((foot, top))
        x += each.figure.width + BETWEEN
    return Figure(width, height, tuple(marks), spine), tops
