"""Cards: one kind of layer, or a multi-token prediction module, with a title."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ordito.drawing.box import SIGN, SLACK, box
from ordito.drawing.column import caption
from ordito.drawing.layer import BETWEEN, SMALL, Describe, Piece, chain, piece
from ordito.drawing.measure import cut, width
from ordito.drawing.plan import Kind
from ordito.drawing.rows import badge, layers_row
from ordito.drawing.scene import Figure, Line, Mark, Rect, Text, moved
from ordito.drawing.sizes import brief, parameters
from ordito.drawing.wiring import wiring
from ordito.spec import NextToken

ROOM = 354.0
"""Width of a box, px."""
PAD, HEADER, TAIL = 14.0, 62.0, 22.0
"""Padding of a card, height of its title, and length of the arrows into and out of it, px."""


def layer_card(kind: Kind, describe: Describe, d_model: int, new_wiring: bool) -> Figure:
    """The card of a kind of layer."""
    many = f"{kind.times:,} {'layer' if kind.times == 1 else 'layers'}, " if kind.times else ""
    size = f"{many}{brief(kind.parameters)}" + (" each" if kind.times > 1 else "")
    title = f"Layer {kind.letter}" + (f": {kind.title}" if kind.title else "")
    heading = Heading(title, wiring(kind.layer), size, kind.letter, new_wiring)
    return _card(piece(kind.layer, describe, ROOM), heading, f"d_model {d_model:,}")


def ahead_card(times: int, module: NextToken, kind: Kind, describe: Describe) -> Figure:
    """The card of a multi-token prediction module: two norms in parallel, joined, then a layer."""
    half = (ROOM - BETWEEN) / 2
    inputs = [
        (name, box(replace(describe(place, norm), parameters=None), half))
        for name, place, norm in (
            ("next token's embedding", "next.", module.embedding_norm),
            ("hidden state", "hidden.", module.hidden_norm),
        )
    ]
    layer = f"one layer{': ' if kind.title else ''}{kind.title}, {brief(kind.parameters)}"
    pieces = [
        _joined([chain([caption(name, half), Piece(norm, True)]).figure for name, norm in inputs]),
        Piece(box(describe("", module.join), ROOM), True),
        Piece(layers_row(layer, kind.letter, ROOM), True),
        Piece(box(describe("ahead.", module.norm), ROOM), True),
        caption("to the LM head: the token after next", ROOM),
    ]
    heading = Heading("Multi-token prediction (MTP)", "not needed for inference", f"{times} × {brief(parameters(module))}")
    return _card(chain(pieces), heading)


def _joined(figures: list[Figure]) -> Piece:
    """Figures of the same height in parallel, whose outputs are joined above them."""
    meet, marks, x = 26.0, list[Mark](), 0.0
    width, high = sum(figure.width for figure in figures) + BETWEEN * (len(figures) - 1), meet + figures[0].height
    for figure in figures:
        marks.extend(moved(figure.marks, x, meet))
        end = x + figure.spine
        marks.append(Line(((end, meet), (end, 12), (width / 2, 12), (width / 2, 0))))
        x += figure.width + BETWEEN
    return Piece(Figure(width, high, tuple(marks), width / 2), False, gives="concatenated")


@dataclass(frozen=True)
class Heading:
    """The title of a card, and a note, which `new` marks as a difference."""

    title: str
    note: str
    right: str
    letter: str = ""
    new: bool = False


def _card(content: Piece, heading: Heading, gives: str = "") -> Figure:
    """A card with a title; `gives` is the text beside the arrow that leaves it."""
    figure, tail = content.figure, TAIL if gives else 12.0
    wide, top = figure.width + 2 * PAD, HEADER + tail
    high, spine = top + figure.height + tail, PAD + figure.spine
    marks: list[Mark] = [Rect(0, 0, wide, high, "card", "card.edge", 12)]
    start = PAD
    if heading.letter:
        marks.extend(badge(PAD + 13, 26, heading.letter))
        start += 34 + max(0.0, width(heading.letter, 13, True) - 10)
    marks.append(Text(start, 31.5, cut(heading.title, 17, (wide - start - PAD) / SLACK, True), 17, "text", True))
    marks.append(Text(wide - PAD, 53, heading.right, 14, "quiet", anchor="end"))
    room = wide - start - PAD - SLACK * width(heading.right, 14) - 14
    note = cut(f"{SIGN} {heading.note}" if heading.new else heading.note, 14, room / SLACK, heading.new)
    marks.append(Text(start, 53, note, 14, "new" if heading.new else "quiet", heading.new))
    marks.extend(moved(figure.marks, PAD, top))
    if gives:
        marks.append(Line(((spine, top), (spine, top - tail + 2)), arrow=True))
        marks.append(Line(((spine, high), (spine, high - tail)), arrow=content.solid))
        marks.append(Text(spine + 9, high - 8, gives, SMALL, "quiet"))
    return Figure(wide, high, tuple(marks))
