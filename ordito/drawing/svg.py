"""A figure -> SVG 1.1: attributes only, no style sheets, markers, scripts or fonts, so that all viewers show the same."""

from __future__ import annotations

import re
from math import hypot
from xml.sax.saxutils import escape

from ordito.drawing.measure import FAMILY
from ordito.drawing.scene import Figure, Line, Mark, Rect, Text
from ordito.drawing.theme import colours

FONTS = f"{FAMILY}, 'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
CORNER = 7.0
"""Radius of the corners of lines, px."""
ARROW = 7.0
"""Length of an arrowhead, px."""
_NOT_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")


def svg(figure: Figure, theme: str, title: str) -> str:
    """The figure as an SVG document, with the colours of a theme."""
    paint = colours(theme)
    size = f'width="{_n(figure.width)}" height="{_n(figure.height)}" viewBox="0 0 {_n(figure.width)} {_n(figure.height)}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{escape(FONTS)}">',
        f"<title>{_text(title)}</title>",
        f'<rect width="{_n(figure.width)}" height="{_n(figure.height)}" fill="{paint["page"]}"/>',
        *(_mark(mark, paint) for mark in figure.marks),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _mark(mark: Mark, paint: dict[str, str]) -> str:
    match mark:
        case Rect():
            edge = f' stroke="{paint[mark.stroke]}" stroke-width="{_n(mark.line)}"' if mark.stroke else ""
            fill = paint[mark.fill] if mark.fill else "none"
            corner = f' rx="{_n(mark.radius)}"' if mark.radius else ""
            box = f'x="{_n(mark.x)}" y="{_n(mark.y)}" width="{_n(mark.width)}" height="{_n(mark.height)}"'
            return f'<rect {box}{corner} fill="{fill}"{edge}{_dash(mark.dash)}/>'
        case Line():
            return _line(mark, paint[mark.stroke])
        case Text():
            anchor = f' text-anchor="{mark.anchor}"' if mark.anchor != "start" else ""
            weight = ' font-weight="600"' if mark.bold else ""
            place = f'x="{_n(mark.x)}" y="{_n(mark.y)}" font-size="{_n(mark.size)}" fill="{paint[mark.fill]}"'
            return f"<text {place}{weight}{anchor}>{_text(mark.text)}</text>"


def _line(mark: Line, colour: str) -> str:
    points = list(mark.points)
    head = ""
    if mark.arrow:
        (x0, y0), (x, y) = points[-2:]
        length = hypot(x - x0, y - y0) or 1.0
        ux, uy = (x - x0) / length, (y - y0) / length
        back, side = (x - ARROW * ux, y - ARROW * uy), ARROW * 0.55
        corners = [(x, y), (back[0] - side * uy, back[1] + side * ux), (back[0] + side * uy, back[1] - side * ux)]
        head = f'<path d="M{" L".join(_point(p) for p in corners)} Z" fill="{colour}"/>'
        points[-1] = back
    path = [f"M{_point(points[0])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        path.append(f"L{_point(_towards(corner, before))} Q{_point(corner)} {_point(_towards(corner, after))}")
    path.append(f"L{_point(points[-1])}")
    edge = f'fill="none" stroke="{colour}" stroke-width="{_n(mark.line)}"{_dash(mark.dash)}'
    return f'<path d="{" ".join(path)}" {edge}/>{head}'


def _towards(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """The point at a corner's radius from `start`, or half way if that is nearer."""
    length = hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    step = min(CORNER, length / 2) / length
    return start[0] + step * (end[0] - start[0]), start[1] + step * (end[1] - start[1])


def _dash(dash: bool) -> str:
    return ' stroke-dasharray="5 4"' if dash else ""


def _text(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _point(point: tuple[float, float]) -> str:
    return f"{_n(point[0])} {_n(point[1])}"


def _n(x: float) -> str:
    """A length with at most two decimals."""
    return f"{x:.2f}".rstrip("0").rstrip(".") if x else "0"
