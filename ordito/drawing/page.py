"""Columns and cards on a page, and pages side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from ordito.drawing.box import SIGN, SLACK
from ordito.drawing.card import ahead_card, layer_card
from ordito.drawing.column import Column, decoder, encoder
from ordito.drawing.differences import Differences
from ordito.drawing.measure import cut, width
from ordito.drawing.plan import MOST_KINDS, Plan
from ordito.drawing.scene import Figure, Line, Mark, Text, moved

MARGIN, GAP, HEADER = 28.0, 22.0, 72.0
"""Margin of a page, gap between its parts, and height of its title, px."""
SLIDE = (1920.0, 1080.0)
"""The slide that a page is laid out for, px."""
TITLE, SUBTITLE = 27.0, 15.0
"""Font sizes, px."""
DOT = "\u00a0\u00a0·\u00a0\u00a0"
"""The separator of facts, with no-break spaces, which SVG does not collapse."""


@dataclass(frozen=True)
class Heading:
    """A title, and the facts under it, each with a flag whether it differs from the other architecture."""

    title: str
    facts: tuple[tuple[str, bool], ...]


def page(plan: Plan, heading: Heading, marked: Differences, d_model: int) -> Figure:
    """The page of one architecture: title, columns, cards."""
    columns, cards = _columns(plan, marked), _cards(plan, marked, d_model)
    body = min((_side_by_side(columns, cards, rows) for rows in range(1, max(1, len(cards)) + 1)), key=shrinking)
    wide = max(body.width, 560.0, SLACK * _subtitle_width(heading))
    marks = (*moved(_heading(heading, wide), MARGIN, MARGIN), *moved(body.marks, MARGIN, MARGIN + HEADER))
    return Figure(wide + 2 * MARGIN, body.height + HEADER + 2 * MARGIN, marks)


def together(pages: Sequence[Figure]) -> Figure:
    """Pages side by side or one below the other, whichever fits a slide better, with a legend of `SIGN`."""
    wide, high = sum(p.width for p in pages), sum(p.height for p in pages)
    across = Figure(wide, max(p.height for p in pages), ())
    down = Figure(max(p.width for p in pages), high, ())
    whole = min(across, down, key=shrinking)
    marks, x, y = list[Mark](), 0.0, 0.0
    for number, each in enumerate(pages):
        marks.extend(moved(each.marks, x, y))
        if whole is across:
            x += each.width
            edge = ((x, MARGIN), (x, whole.height - MARGIN))
        else:
            y += each.height
            edge = ((MARGIN, y), (whole.width - MARGIN, y))
        if number + 1 < len(pages):
            marks.append(Line(edge, "card.edge", 2))
    marks.append(
        Text(MARGIN, whole.height + 4, f"{SIGN} differs from the other model, or is absent there", SUBTITLE, "new", True)
    )
    return Figure(whole.width, whole.height + 24, tuple(marks))


def shrinking(figure: Figure) -> float:
    """The factor by which a figure must be shrunk to fit a slide."""
    return max(figure.width / SLIDE[0], figure.height / SLIDE[1])


def _columns(plan: Plan, marked: Differences) -> Figure:
    """The column of the model, with that of its encoder on the left, and an arrow from there to the model's layers."""
    column = decoder(plan, marked.column, marked.rows)
    body = _tied(column)
    if not plan.encoder:
        return body
    source = encoder(plan, marked.column, marked.rows).figure
    spacing, high = 58.0, max(source.height + 18, body.height)
    left, right = high - source.height, high - body.height
    x, middle = source.width + spacing, source.width + spacing / 2
    entry = right + column.entry
    crossing = ((source.spine, left), (source.spine, left - 18), (middle, left - 18), (middle, entry), (x, entry))
    marks = (*moved(source.marks, 0, left), *moved(body.marks, x, right), Line(crossing, arrow=True))
    return Figure(x + body.width, high, marks)


def _tied(column: Column) -> Figure:
    """The column, with a dashed line from the embedding to a tied head."""
    figure = column.figure
    if column.tie is None:
        return figure
    (low, high), edge = column.tie, figure.width
    tie = Line(((edge, low), (edge + 14, low), (edge + 14, high), (edge, high)), "embedding.edge", arrow=True, dash=True)
    return Figure(edge + 14, figure.height, (*figure.marks, tie))


def _cards(plan: Plan, marked: Differences, d_model: int) -> list[Figure]:
    """Cards of the kinds of layers, then of multi-token prediction modules."""
    drawn = zip(plan.drawn, marked.layers, marked.wirings, strict=True)
    cards = [layer_card(kind, describe, d_model, new) for kind, describe, new in drawn]
    cards += [ahead_card(times, module, plan.kinds[kind], marked.column) for times, module, kind in plan.ahead[:MOST_KINDS]]
    if left := len(plan.kinds) - len(plan.drawn):
        note = f"… {left:,} more kinds of layers"
        cards.append(Figure(SLACK * width(note, SUBTITLE), 24, (Text(0, 18, note, SUBTITLE, "quiet"),)))
    return cards


def _side_by_side(columns: Figure, cards: list[Figure], rows: int) -> Figure:
    """The columns, and the cards beside them in `rows` rows."""
    if not cards:
        return columns
    per_row = -(-len(cards) // rows)
    marks, x0, y, wide = list[Mark](), columns.width + GAP + 12, 0.0, 0.0
    for start in range(0, len(cards), per_row):
        x = x0
        for card in cards[start : start + per_row]:
            marks.extend(moved(card.marks, x, y))
            x += card.width + GAP
        wide = max(wide, x - GAP)
        y += max(card.height for card in cards[start : start + per_row]) + GAP
    high = max(y - GAP, columns.height)
    return Figure(wide, high, (*moved(columns.marks, 0, (high - columns.height) / 2), *marks))


def _heading(heading: Heading, wide: float) -> list[Mark]:
    marks: list[Mark] = [Text(0, 24, cut(heading.title, TITLE, wide / SLACK, True), TITLE, "text", True)]
    x = 0.0
    for i, (text, new) in enumerate(_subtitle(heading)):
        if i:
            marks.append(Text(x - 14, 52, "·", SUBTITLE, "quiet", anchor="middle"))
        marks.append(Text(x, 52, text, SUBTITLE, "new" if new else "quiet", new))
        x += width(text, SUBTITLE, new) + 28
    return marks


def _subtitle(heading: Heading) -> list[tuple[str, bool]]:
    """The facts; adjacent ones with the same flag are one text, so that their spacing does not depend on the font."""
    runs = groupby(heading.facts, key=lambda fact: fact[1])
    return [(DOT.join(f"{SIGN} {fact}" if new else fact for fact, _ in facts), new) for new, facts in runs]


def _subtitle_width(heading: Heading) -> float:
    return sum(width(text, SUBTITLE, new) + 28 for text, new in _subtitle(heading))
