"""A block as a box: its title and parameters, its facts in two columns, and its picture."""

from __future__ import annotations

from ordito.drawing.facts import Fact
from ordito.drawing.glyphs import experts, picture
from ordito.drawing.measure import cut, width, wrap
from ordito.drawing.scene import Figure, Mark, Rect, Text, moved
from ordito.drawing.sizes import brief
from ordito.drawing.words import Label, Leaf
from ordito.spec import MixtureOfExperts

TITLE, FACT = 15.0, 14.0
"""Font sizes, px."""
STEP = 20.0
"""Line height of facts, px."""
SIDE = 18.0
"""Padding between edge and text, px, with room for `SIGN`."""
SLACK = 1.04
"""Factor for text widths: a viewer's fallback font may be wider than ours."""
SIGN = "≠"
"""Marks differences for viewers who cannot see the colour."""


def box(label: Label, room: float, block: Leaf | None = None) -> Figure:
    """The box of a block, `room` px wide, with the picture of `block` if it has one."""
    inner = room - 2 * SIDE + 6
    size = "" if not label.parameters else brief(label.parameters)
    sign = f"{SIGN} " if label.new else ""
    marks: list[Mark] = []
    title = cut(sign + label.title, TITLE, (inner - width(size, FACT) - 12) / SLACK, True)
    marks.append(Text(SIDE, 23, title, TITLE, "new" if label.new else "text", True))
    if size:
        marks.append(Text(room - SIDE + 6, 23, size, FACT, "quiet", anchor="end"))
    used = SLACK * (width(title, TITLE, True) + width(size, FACT)) + 24
    if len(label.facts) == 1 and not label.facts[0].key and used + SLACK * width(label.facts[0].value, FACT) <= inner:
        fact = label.facts[0]
        marks.extend(_value(fact, SIDE + SLACK * width(title, TITLE, True) + 12 + (14 if fact.new else 0), 23, [fact.value]))
        height = 34.0
    else:
        drawn = picture(block) if block is not None else None
        height, lines = _facts(label.facts, room, drawn)
        marks.extend(lines)
    if isinstance(block, MixtureOfExperts):
        fan = experts(block, room)
        marks.extend(moved(fan.marks, 0, height + 2))
        height += fan.height + 2
    edge = "new" if label.new else f"{label.colour}.edge"
    frame = Rect(0, 0, room, height, f"{label.colour}.fill", edge, 7, 2.2 if label.new else 1.2, dash=label.new)
    return Figure(room, height, (frame, *marks), room / 2)


def _facts(facts: tuple[Fact, ...], room: float, drawn: Figure | None) -> tuple[float, list[Mark]]:
    """The facts under a title, left of a picture if there is one, and the height of the box that they need."""
    marks: list[Mark] = []
    keys = max((SLACK * width(fact.key, FACT) + 10 for fact in facts if fact.key), default=0.0)
    y, below = 23.0 + STEP + 1, 0.0
    if drawn is not None:
        marks.extend(moved(drawn.marks, room - drawn.width - 12, 34))
        below = 34 + drawn.height
    for fact in facts:
        beside = drawn.width + 8 if drawn is not None and y - FACT < below else 0
        lines = wrap(fact.value, FACT, (room - 2 * SIDE + 6 - keys - beside) / SLACK)
        if fact.key:
            marks.append(Text(SIDE, y, fact.key, FACT, "new" if fact.new else "quiet", fact.new))
        marks.extend(_value(fact, SIDE + keys, y, lines))
        y += STEP * len(lines)
    return max(y - STEP + 11, below + 9), marks


def _value(fact: Fact, x: float, y: float, lines: list[str]) -> list[Mark]:
    """The lines of a value. A difference is bold and coloured, with `SIGN` in the margin."""
    fill = "new" if fact.new else "text" if fact.key else "quiet"
    marks: list[Mark] = [Text(x, y + i * STEP, line, FACT, fill, fact.new) for i, line in enumerate(lines)]
    if fact.new:
        marks.append(Text(4 if fact.key else x - 13, y, SIGN, FACT, "new", True))
    return marks
