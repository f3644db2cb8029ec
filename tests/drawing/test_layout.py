"""The layout of all published models: nothing overlaps, everything fits into its box and on a slide."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest

from ordito import catalogue
from ordito.drawing import draw
from ordito.drawing.page import SLIDE
from ordito.drawing.plan import plan
from ordito.drawing.scene import Figure, Line, Rect, Text
from ordito.families import spec_from_config

OPEN = {spec_from_config(entry.config): entry.name for entry in catalogue.models() if entry.config is not None}
PAIRS = [
    ("Llama 2 7B", "Llama 3 8B"),
    ("Gemma 2 2B", "Gemma 3 1B"),
    ("GPT-2 small", "DeepSeek-V3"),
    ("BERT base uncased", "T5 small"),
    ("Phi-2", "Phi-3-small 8k"),
    ("Llama 4 Scout 17B-16E", "gpt-oss-120b"),
]
SMALLEST, SMALLEST_OF_MANY = 12.0, 10.5
"""Smallest font size on a slide 1080 px high, px; and for a model with more than three kinds of layers (Switch)."""
WIDER = 1.03
"""Factor for fallback fonts, which may be wider."""

Box = tuple[float, float, float, float]


def box(text: Text) -> Box:
    """Left, top, right, bottom of what is drawn."""
    return text.left, text.y - 0.74 * text.size, text.left + text.width, text.y + 0.2 * text.size


def overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def around(text: Text, figure: Figure) -> Box:
    """The smallest rectangle in which the middle of a text is, or the canvas."""
    left, top, right, bottom = box(text)
    x, y = (left + right) / 2, (top + bottom) / 2
    boxes = [(r.x, r.y, r.x + r.width, r.y + r.height) for r in figure.marks if isinstance(r, Rect)]
    inside = [r for r in boxes if r[0] <= x <= r[2] and r[1] <= y <= r[3]]
    return min(inside, key=lambda r: (r[2] - r[0]) * (r[3] - r[1]), default=(0, 0, figure.width, figure.height))


def faults(figure: Figure) -> list[str]:
    """The defects of a layout, as text."""
    texts = [(mark, box(mark)) for mark in figure.marks if isinstance(mark, Text)]
    found = [f"{a.text!r} overlaps {b.text!r}" for (a, a_box), (b, b_box) in combinations(texts, 2) if overlap(a_box, b_box)]
    for text, (left, top, right, bottom) in texts:
        room = around(text, figure)
        slack = (WIDER - 1) * text.width / (2 if text.anchor == "middle" else 1)
        if left - slack < room[0] or right + slack > room[2] or top < room[1] or bottom > room[3]:
            found.append(f"{text.text!r} does not fit its box")
    for line in figure.marks:
        if isinstance(line, Line):
            for (x0, y0), (x1, y1) in pairwise(line.points):
                along = (min(x0, x1) - 0.5, min(y0, y1) - 0.5, max(x0, x1) + 0.5, max(y0, y1) + 0.5)
                found += [f"a line runs through {text.text!r}" for text, its_box in texts if overlap(along, its_box)]
    return found


@pytest.mark.parametrize("spec", OPEN, ids=OPEN.values())
def test_nothing_overlaps_and_all_fits_on_a_slide(spec):
    figure = draw(spec, titles=[OPEN[spec]]).figure
    assert not faults(figure)
    smallest = min(mark.size for mark in figure.marks if isinstance(mark, Text))
    readable = SMALLEST if len(plan(spec).kinds) <= 3 else SMALLEST_OF_MANY
    assert smallest / max(figure.width / SLIDE[0], figure.height / SLIDE[1]) >= readable


@pytest.mark.parametrize("names", PAIRS, ids=" and ".join)
def test_comparisons_do_not_overlap(names):
    specs = [spec_from_config(catalogue.find(name).config) for name in names]
    assert not faults(draw(*specs, titles=names).figure)


def test_the_check_finds_what_is_wrong():
    line, text = Line(((0, 10), (50, 10))), Text(5, 14, "attention", 14)
    inside = Rect(0, 0, 100, 30, "page")
    assert faults(Figure(100, 30, (inside, text))) == []
    assert faults(Figure(100, 30, (inside, text, line))) == ["a line runs through 'attention'"]
    assert faults(Figure(100, 30, (inside, text, text)))[0] == "'attention' overlaps 'attention'"
    assert faults(Figure(100, 30, (Rect(0, 0, 60, 30, "page"), text))) == ["'attention' does not fit its box"]
    assert faults(Figure(30, 30, (text,))) == ["'attention' does not fit its box"]
