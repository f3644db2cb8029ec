"""The primitives of a drawing: rectangles, lines and texts, with names of theme colours. All lengths in px."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from ordito.drawing.measure import width


@dataclass(frozen=True)
class Rect:
    """A rectangle; `fill` and `stroke` are colours of the theme by name, or None."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None
    stroke: str | None = None
    radius: float = 0
    line: float = 1.2
    dash: bool = False


@dataclass(frozen=True)
class Line:
    """A path through points, its corners rounded, with an arrowhead at its end if `arrow`."""

    points: tuple[tuple[float, float], ...]
    stroke: str = "line"
    line: float = 1.5
    arrow: bool = False
    dash: bool = False


@dataclass(frozen=True)
class Text:
    """One line of text whose baseline is at `y` and whose start, middle or end is at `x`."""

    x: float
    y: float
    text: str
    size: float
    fill: str = "text"
    bold: bool = False
    anchor: Literal["start", "middle", "end"] = "start"

    @property
    def width(self) -> float:
        """The width as rendered with our font."""
        return width(self.text, self.size, self.bold)

    @property
    def left(self) -> float:
        """The x of its left end."""
        return self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.width


Mark = Rect | Line | Text


@dataclass(frozen=True)
class Figure:
    """Marks in a local box from (0, 0) to (`width`, `height`). `spine` is the x at which data enter and leave."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    spine: float = 0


def moved(marks: Iterable[Mark], dx: float, dy: float) -> tuple[Mark, ...]:
    """The marks, shifted."""
    return tuple(_moved(mark, dx, dy) for mark in marks)


def _moved(mark: Mark, dx: float, dy: float) -> Mark:
    if isinstance(mark, Line):
        return replace(mark, points=tuple((x + dx, y + dy) for x, y in mark.points))
    return replace(mark, x=mark.x + dx, y=mark.y + dy)
