"""The charts of docs/charts: sizes of the published models over time and against each other, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import log10
from xml.sax.saxutils import escape

from ordito import catalogue
from ordito.comparing.published import Row, Shape, rows
from ordito.drawing.measure import width as measured
from ordito.units import short, size

WIDTH, HEIGHT = 1100, 640
LEFT, RIGHT, TOP, BOTTOM = 86, 30, 70, 60
STYLE = """<style>
svg { --ink: #1f2933; --soft: #6b7785; --line: #dfe4ea; --page: #ffffff }
@media (prefers-color-scheme: dark) { svg { --ink: #e6edf3; --soft: #9aa7b4; --line: #2b3440; --page: #0f141a } }
text { font: 12px Inter, Helvetica, Arial, sans-serif; fill: var(--ink) }
.title { font-size: 19px; font-weight: 600 } .soft { fill: var(--soft) } .axis { stroke: var(--line) }
.page { fill: var(--page) } .dot { stroke: var(--page); stroke-width: 1.5 }
</style>"""
COLOURS = {
    "gpt": "#0f9d8a",
    "llama": "#3b6fd4",
    "gemma": "#e0822b",
    "mistral": "#d14b4b",
    "phi": "#7a55c7",
    "deepseek": "#1f8fc4",
    "qwen": "#b04fa3",
    "smollm": "#8a8f3c",
    "italian": "#3f9c52",
    "bert": "#8b6b52",
    "t5": "#5f7383",
    "claude": "#c9785b",
    "gemini": "#6b8fe0",
}


@dataclass(frozen=True)
class Dot:
    """A model in a chart."""

    x: float
    y: float
    name: str
    family: str


@dataclass(frozen=True)
class Axis:
    """An axis: its title, range, ticks, how they are formatted, and whether it is logarithmic."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    format: Callable[[float], str]
    log: bool = True

    def place(self, value: float) -> float:
        """The position of a value on the axis, 0 to 1."""
        if self.log:
            return (log10(value) - log10(self.low)) / (log10(self.high) - log10(self.low))
        return (value - self.low) / (self.high - self.low)


def scatter(title: str, note: str, x: Axis, y: Axis, dots: Iterable[Dot], diagonal: bool = False) -> str:
    """A scatter plot as SVG. Labels that would overlap are left out; earlier dots take precedence."""
    right, low = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at(dot: Dot) -> tuple[float, float]:
        return LEFT + x.place(dot.x) * (right - LEFT), low - y.place(dot.y) * (low - TOP)

    parts = [_text(LEFT, 30, title, "title"), _text(LEFT, 50, note, "soft")]
    for tick in x.ticks:
        place = LEFT + x.place(tick) * (right - LEFT)
        parts.append(f'<line class="axis" x1="{place:.1f}" x2="{place:.1f}" y1="{TOP}" y2="{low}"/>')
        parts.append(_text(place, low + 20, x.format(tick), "soft", "middle"))
    for tick in y.ticks:
        place = low - y.place(tick) * (low - TOP)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(_text(LEFT - 10, place + 4, y.format(tick), "soft", "end"))
    parts.append(_text((LEFT + right) / 2, HEIGHT - 16, x.title, "soft", "middle"))
    middle = (TOP + low) / 2
    parts.append(
        f'<text class="soft" x="20" y="{middle:.0f}" text-anchor="middle" transform="rotate(-90 20 {middle:.0f})">'
        f"{escape(y.title)}</text>"
    )
    if diagonal:
        ends = max(x.low, y.low), min(x.high, y.high)
        (x1, y1), (x2, y2) = (at(Dot(end, end, "", "")) for end in ends)
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--soft)" stroke-dasharray="4 4"/>'
        )
    placed = list(dots)
    taken = [(a - 5, b - 5, a + 5, b + 5) for a, b in map(at, placed)]
    for dot in placed:
        a, b = at(dot)
        colour = COLOURS[dot.family]
        parts.append(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="5" fill="{colour}"/>')
        width = label_width(dot.name)
        for left, base in ((a + 8, b + 4), (a - 8 - width, b + 4), (a - width / 2, b - 9), (a - width / 2, b + 17)):
            box = (left, base - 10, left + width, base + 3)
            inside = box[0] >= LEFT and box[2] <= right and box[1] >= TOP and box[3] <= low
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(
                    f'<text x="{left:.1f}" y="{base:.1f}" fill="{colour}" style="fill:{colour}">{escape(dot.name)}</text>'
                )
                break
    return _page(parts, HEIGHT)


def label_width(text: str) -> float:
    """The width of a label in px, with a margin for wider fonts."""
    return 1.06 * measured(text, 12)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _page(parts: list[str], height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" height="{height:.0f}">'
    return "\n".join([head, STYLE, f'<rect class="page" width="{WIDTH}" height="{height:.0f}"/>', *parts, "</svg>", ""])


def shapes() -> list[Row]:
    """The open models, one per shape: the first released."""
    found: dict[Shape, Row] = {}
    for row in rows(closed=False):
        if row.shape is not None and (row.shape not in found or row.entry.released < found[row.shape].entry.released):
            found[row.shape] = row
    return list(found.values())


def year(row: Row) -> float:
    """The month of release as a year with a fraction."""
    years, months = row.entry.released.split("-")
    return int(years) + (int(months) - 0.5) / 12


def years() -> Axis:
    """An axis of years, from the first model to the last."""
    every = [year(row) for row in rows()]
    first, last = int(min(every)), int(max(every)) + 1
    return Axis("released", first, last, tuple(range(first, last + 1)), lambda value: f"{value:.0f}", log=False)


def parameters_by_year() -> str:
    """Parameters by date of release."""
    sizes = Axis("parameters", 1e7, 3e12, (1e7, 1e8, 1e9, 1e10, 1e11, 1e12), short)
    dots = [Dot(year(row), row.shape.total, row.entry.name, row.entry.family) for row in shapes() if row.shape]
    return scatter("Parameters over time", "one dot per shape; all parameters, experts included", years(), sizes, dots)


def cache_by_context() -> str:
    """KV cache bytes per token by context length."""
    contexts = Axis("context length, in tokens", 400, 2e7, (512, 4096, 32768, 131072, 1048576, 10485760), lambda v: f"{v:,.0f}")
    bytes_ = Axis("KV cache per token, at 16 bits", 5e3, 6e6, (1e4, 1e5, 1e6), size)
    dots = [
        Dot(row.entry.context, row.shape.kv_bytes_per_token, row.entry.name, row.entry.family)
        for row in shapes()
        if row.shape and row.shape.kv_bytes_per_token and row.entry.context
    ]
    note = "grouped-query and latent attention made long contexts affordable; what windows save is not counted"
    return scatter("KV cache per token", note, contexts, bytes_, dots)


def active_by_total() -> str:
    """Active parameters by total parameters."""
    total = Axis("total parameters", 1e7, 3e12, (1e7, 1e8, 1e9, 1e10, 1e11, 1e12), short)
    active = Axis("active parameters", 1e7, 1e12, (1e7, 1e8, 1e9, 1e10, 1e11, 1e12), short)
    apart = sorted((row for row in shapes() if row.shape), key=lambda row: row.shape.active / row.shape.total)
    dots = [Dot(row.shape.total, row.shape.active, row.entry.name, row.entry.family) for row in apart if row.shape]
    note = "dense models lie on the diagonal, mixtures of experts below it"
    return scatter("Active parameters", note, total, active, dots, diagonal=True)


def timeline() -> str:
    """The releases of every family, one lane each."""
    lanes = list(catalogue.titles())
    axis, lane = years(), 44
    right, bottom = WIDTH - RIGHT, TOP + lane * len(lanes)
    left = LEFT + 60
    parts = [_text(26, 30, "Releases", "title"), _text(26, 50, "one dot per model; hollow: closed", "soft")]

    def at(value: float) -> float:
        return left + axis.place(value) * (right - left)

    for tick in axis.ticks:
        parts.append(f'<line class="axis" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(_text(at(tick), bottom + 20, axis.format(tick), "soft", "middle"))
    for number, family in enumerate(lanes):
        y = TOP + lane * (number + 0.5)
        parts.append(_text(26, y + 4, catalogue.titles()[family], "name"))
        parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{y + lane / 2:.1f}" y2="{y + lane / 2:.1f}"/>')
        found = sorted(rows(family=family), key=year)
        ends = {-1: 0.0, 1: 0.0}  # where the last label above and below the lane ends
        named: set[str] = set()
        for row in found:
            x, colour = at(year(row)), COLOURS[family]
            fill = "var(--page)" if row.entry.closed else colour
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}" stroke-width="1.5"/>')
            label = generation(row.entry.name)
            width = label_width(label)
            for side, base in ((-1, y - 8), (1, y + 17)):
                if label not in named and x - 3 > ends[side] and x + width < right + 20:
                    parts.append(_text(x - 3, base, label, "soft"))
                    ends[side] = x + width + 4
                    named.add(label)
    return _page(parts, bottom + 44)


def generation(name: str) -> str:
    """The name of a model without its size.

    >>> generation("Gemma 3 27B"), generation("Qwen3 30B-A3B"), generation("GPT-2 small")
    ('Gemma 3', 'Qwen3', 'GPT-2')
    """
    sizes = {
        "small",
        "base",
        "large",
        "medium",
        "mini",
        "xl",
        "xxl",
        "Instruct",
        "uncased",
        "cased",
        "Pro",
        "Flash",
        "Haiku",
        "Sonnet",
    }
    words = name.split()
    kept = [words[0]]
    for word in words[1:]:
        if word in sizes or (
            word.rstrip("BMTk").replace(".", "").replace("-", "").replace("x", "").isdigit() and word[-1] in "BMTk"
        ):
            break
        if word[0].isdigit() and "B" in word:
            break
        kept.append(word)
    return " ".join(kept)


CHARTS = {
    "timeline.svg": timeline,
    "parameters.svg": parameters_by_year,
    "cache.svg": cache_by_context,
    "active.svg": active_by_total,
}
