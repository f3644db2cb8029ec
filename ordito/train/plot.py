"""The loss curve of a run, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 48
_STYLE = """<style>
text { font: 12px Inter, Helvetica, Arial, sans-serif; fill: #1f2933 } .soft { fill: #6b7785 }
.page { fill: #ffffff } .axis { stroke: #dfe4ea } .held { fill: #e0822b }
path { fill: none; stroke: #3b6fd4; stroke-linejoin: round }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .soft { fill: #9aa7b4 } .page { fill: #0f141a } .axis { stroke: #2b3440 } .held { fill: #e0822b } }
</style>"""


def loss_plot(records: Sequence[Mapping[str, Any]], title: str = "loss") -> str:
    """The training loss of each step, faint, its running mean, and the evaluations as dots."""
    train = [(record["step"], record["loss"]) for record in records if _finite(record.get("loss"))]
    held = [(record["step"], record["eval_loss"]) for record in records if _finite(record.get("eval_loss"))]
    values = [y for _, y in train + held] or [0.0]
    low, high = min(values), max(values)
    pad = 0.05 * (high - low or 1.0)
    low, high = low - pad, high + pad
    first, last = train[0][0] if train else 0, max((x for x, _ in train + held), default=1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / max(1, last - first)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>']
    for tick in _ticks(low, high):
        _, y = place(first, tick)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in _ticks(first, last):
        x, _ = place(tick, low)
        parts.append(f'<text class="soft" x="{x:.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text class="soft" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}" text-anchor="end">steps</text>')
    parts.append(f'<text x="{LEFT}" y="26" style="font-size:16px;font-weight:600">{escape(title)}</text>')
    parts.append(_line([place(*point) for point in train], 1, 0.35))
    parts.append(_line([place(*point) for point in _smooth(train)], 2, 1))
    for x, y in (place(*point) for point in held):
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" class="held"/>')
    if held:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="26" text-anchor="end" class="held">● evaluation</text>')
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">\n{_STYLE}\n{body}\n</svg>\n'


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _smooth(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential moving average over about a thirtieth of the run, which starts at the first value."""
    keep, mean, found = 1 - 1 / max(1.0, len(points) / 30), None, []
    for x, y in points:
        mean = y if mean is None else keep * mean + (1 - keep) * y
        found.append((x, mean))
    return found


def _line(points: Sequence[tuple[float, float]], width: float, opacity: float) -> str:
    path = " ".join(f"{'M' if i == 0 else 'L'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    return f'<path d="{path}" stroke-width="{width}" opacity="{opacity}"/>'


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between `low` and `high`."""
    if not high > low:
        return [low]
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
