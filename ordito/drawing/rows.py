"""Folded layers as rows: a badge with the letter of their kind, their number, and a frame around repeated groups."""

from __future__ import annotations

from ordito.drawing.box import SIGN, SLACK
from ordito.drawing.measure import cut, width
from ordito.drawing.plan import Kind, Repeat
from ordito.drawing.scene import Figure, Line, Mark, Rect, Text, moved

ROW, BETWEEN, ARROW = 36.0, 8.0, 14.0
"""Height of a row, gap between rows of a frame, and gap between groups, px."""
TIMES, PAD = 52.0, 8.0
"""Padding of a frame: on its left, for `10 ×`, and around its rows, px."""
MOST_ROWS = 12
"""Rows that are drawn at most; the layers of the others are counted."""


def folded(repeat: Repeat, kinds: tuple[Kind, ...], room: float, new_rows: frozenset[str]) -> Figure:
    """Groups of layers, bottom to top, `room` px wide; rows in `new_rows` are marked."""
    figures, drawn = list[Figure](), 0
    for number, (times, runs) in enumerate(repeat.groups):
        if drawn + len(runs) > MOST_ROWS:
            left = sum(each * sum(n for n, _ in runs) for each, runs in repeat.groups[number:])
            note = Text(room / 2, ROW / 2 + 5, f"… {left:,} more layers", 14, "quiet", anchor="middle")
            figures.append(Figure(room, ROW, (note,)))
            break
        drawn += len(runs)
        names = [(row_name(n, kinds[kind]), kinds[kind].letter) for n, kind in runs]
        if times == 1:
            figures += [layers_row(name, letter, room, f"1 {name}" in new_rows) for name, letter in names]
        else:
            inner = room - TIMES - PAD
            rows = [layers_row(name, letter, inner, f"{times} {name}" in new_rows) for name, letter in names]
            figures.append(_frame(times, rows, room))
    return _stacked(figures, room)


def row_name(times: int, kind: Kind) -> str:
    """The text of a row of layers: their number and kind."""
    return f"{times:,} × {kind.name}" if kind.name else f"{times:,} {'layer' if times == 1 else 'layers'}"


def layers_row(name: str, letter: str, room: float, new: bool = False) -> Figure:
    """One row: a badge and its name."""
    text = cut(f"{SIGN} {name}" if new else name, 14, (room - 60) / SLACK, True)
    frame = Rect(0, 0, room, ROW, "layer.fill", "new" if new else "layer.edge", 7, 2.2 if new else 1.2, dash=new)
    marks = (frame, *badge(24, ROW / 2, letter), Text(44, ROW / 2 + 5, text, 14, "new" if new else "text", True))
    return Figure(room, ROW, marks, room / 2)


def badge(x: float, y: float, letter: str) -> tuple[Mark, ...]:
    """The letter of a kind of layer in a disc centred at a point."""
    wide = max(22.0, width(letter, 13, True) + 12)
    return (
        Rect(x - wide / 2, y - 11, wide, 22, "badge", radius=11),
        Text(x, y + 4.7, letter, 13, "badge.text", True, "middle"),
    )


def _frame(times: int, rows: list[Figure], room: float) -> Figure:
    """Rows in a frame, bottom to top, and the number of repetitions."""
    high = 2 * PAD + len(rows) * (ROW + BETWEEN) - BETWEEN
    label = Text(TIMES / 2, high / 2 + 6, f"{times:,} ×", 16, "text", True, "middle")
    marks: list[Mark] = [Rect(0, 0, room, high, "group", "group.edge", 10), label]
    y = high - PAD
    for i, row in enumerate(rows):
        y -= ROW
        marks.extend(moved(row.marks, TIMES, y))
        if i + 1 < len(rows):
            marks.append(Line(((TIMES + row.spine, y), (TIMES + row.spine, y - BETWEEN))))
            y -= BETWEEN
    return Figure(room, high, tuple(marks), room / 2)


def _stacked(figures: list[Figure], room: float) -> Figure:
    """Figures bottom to top, with arrows between them."""
    y = high = sum(figure.height for figure in figures) + ARROW * (len(figures) - 1)
    marks: list[Mark] = []
    for i, figure in enumerate(figures):
        y -= figure.height
        marks.extend(moved(figure.marks, 0, y))
        if i + 1 < len(figures):
            marks.append(Line(((room / 2, y), (room / 2, y - ARROW)), arrow=True))
            y -= ARROW
    return Figure(room, high, tuple(marks), room / 2)
