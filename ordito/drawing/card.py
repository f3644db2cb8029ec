"""A card: one kind of layer, or a module that looks ahead, with its title."""

from __future__ import annotations

from ordito.drawing.box import SIGN, SLACK, box
from ordito.drawing.column import badge, caption, layers_row
from ordito.drawing.layer import BETWEEN, SMALL, Describe, Piece, beside, chain, piece
from ordito.drawing.measure import cut, width
from ordito.drawing.plan import Kind, wiring
from ordito.drawing.scene import Figure, Line, Mark, Rect, Text, moved
from ordito.drawing.sizes import brief, parameters
from ordito.spec import NextToken

ROOM = 354.0
"""Width of a box, px."""
PAD, HEADER, TAIL = 14.0, 62.0, 22.0
"""Around what is on a card, of its title, and of the arrows into and out of it, px."""


def layer_card(kind: Kind, describe: Describe, d_model: int, new_wiring: bool) -> Figure:
    """The card of a kind of layer."""
    words = wiring(kind.layer)
    many = f"{kind.times:,} {'layer' if kind.times == 1 else 'layers'}, " if kind.times else ""
    each = f"{brief(kind.parameters)} each" if kind.times > 1 else brief(kind.parameters)
    return _card(
        piece(kind.layer, describe, ROOM), f"Layer {kind.letter}" + (f": {kind.name}" if kind.name else ""), kind.letter,
        f"{many}{each}", words, new_wiring, f"d_model {d_model:,}",
    )  # fmt: skip


def ahead_card(times: int, module: NextToken, kind: Kind, describe: Describe) -> Figure:
    """The card of modules that look ahead: two norms side by side, joined, then a layer."""
    half = (ROOM - BETWEEN) / 2
    norms = [
        chain([caption("hidden state", half), Piece(box(describe("hidden.", module.hidden_norm), half), True)]),
        chain([caption("next token, embedded", half), Piece(box(describe("next.", module.embedding_norm), half), True)]),
    ]
    row, tops = beside(norms)
    joined = 26.0
    marks: list[Mark] = list(moved(row.marks[len(norms) :], 0, joined))
    marks = [
        mark
        for mark in moved(row.marks, 0, joined)
        if not (isinstance(mark, Line) and mark.points[0][1] > joined + row.height - 10)
    ]
    for x, top in tops:
        marks.append(Line(((x, joined + top), (x, 12), (row.spine, 12), (row.spine, 0))))
    name = f"one layer, {brief(kind.parameters)}" if not kind.name else f"one layer: {kind.name}, {brief(kind.parameters)}"
    pieces = [
        Piece(Figure(row.width, joined + row.height, tuple(marks), row.spine), False, gives="concatenated"),
        Piece(box(describe("", module.join), ROOM), True),
        Piece(layers_row(name, kind.letter, ROOM), True),
        Piece(box(describe("", module.norm), ROOM), True),
        caption("to the head: the token after next", ROOM),
    ]
    return _card(chain(pieces), "Multi-token prediction", "", f"{times} × {brief(parameters(module))}",
                 "not needed to run the model", False, "")  # fmt: skip


def _card(content: Piece, title: str, letter: str, right: str, words: str, new: bool, gives: str) -> Figure:
    figure = content.figure
    wide, x = figure.width + 2 * PAD, PAD
    tail = TAIL if gives else 4.0
    high = HEADER + tail + figure.height + tail
    top = HEADER + tail
    marks: list[Mark] = [Rect(0, 0, wide, high, "card", "card.edge", 12)]
    start = PAD
    if letter:
        marks.extend(badge(PAD + 13, 26, letter))
        start = PAD + 34 + max(0.0, width(letter, 13, True) - 10)
    marks.append(Text(start, 31.5, cut(title, 17, (wide - start - PAD) / SLACK, True), 17, "text", True))
    marks.append(Text(wide - PAD, 53, right, 14, "quiet", anchor="end"))
    space = wide - start - PAD - SLACK * width(right, 14) - 14
    note = cut(f"{SIGN} {words}" if new else words, 14, space / SLACK, new)
    marks.append(Text(start, 53, note, 14, "new" if new else "quiet", new))
    marks.extend(moved(figure.marks, x, top))
    if gives:
        spine = x + figure.spine
        marks.append(Line(((spine, top), (spine, top - tail + 2)), arrow=True))
        marks.append(Line(((spine, high), (spine, high - tail)), arrow=content.solid))
        marks.append(Text(spine + 9, high - 8, gives, SMALL, "quiet"))
    return Figure(wide, high, tuple(marks))
