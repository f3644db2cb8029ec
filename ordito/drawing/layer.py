"""The picture of a layer, bottom to top: boxes on a vertical spine, residual paths around them, and their additions."""

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
"""Distance of a residual path from the boxes that it bypasses, px."""
BETWEEN = 22.0
"""Gap between parallel branches, px."""
SMALL = 13.0
"""Font size of text beside arrows, px."""
PLUS = 9.0
"""Radius of the circle of an addition, px."""

Describe = Callable[[str, Leaf], Label]
"""(place, leaf) -> label. A place is the path of combinators above the leaf."""


@dataclass(frozen=True)
class Piece:
    """A figure with its connections: `solid` if an arrow ends at its lower edge, `joins` if its upper end is an addition.

    `gives` is the text beside the arrow that leaves it.
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
    """The role of a leaf in its layer: its name, and for a norm also its place."""
    name = str(getattr(leaf, "name", type(leaf).__name__))
    return f"{place}{name}" if isinstance(leaf, Norm) else name


def chain(pieces: list[Piece]) -> Piece:
    """Pieces bottom to top, with an arrow from each to the next."""
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
    """Parallel branches of one input, added: the rightmost enters the addition from the right, the others from below."""
    row, tops = parallel(pieces)
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


def parallel(pieces: list[Piece]) -> tuple[Figure, list[tuple[float, float]]]:
    """Parallel pieces of one input, which forks below them, and the upper end (x, y) of each."""
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
