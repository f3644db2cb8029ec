"""`draw`: architectures as pictures and as compact text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ordito.drawing.differences import differences, none
from ordito.drawing.page import Heading, page, together
from ordito.drawing.plan import Plan, leaves_of, plan
from ordito.drawing.png import png
from ordito.drawing.scene import Figure
from ordito.drawing.sizes import summary, totals
from ordito.drawing.svg import svg
from ordito.drawing.text import text
from ordito.errors import OrditoError, SpecError
from ordito.files import write_atomically
from ordito.spec import Spec, expect_spec

LONGEST_TITLE = 80
"""Characters of a title that are shown, at most."""
MOST_BLOCKS = 400
"""Blocks in a layer, and outside the layers, at most: a picture of more could not be read."""
MOST_PARAMETERS = 10**18
"""Parameters at most: larger numbers do not fit into the boxes."""


def draw(*specs: Spec, titles: Sequence[str] | None = None) -> Drawing:
    """The drawing of an architecture, or of two side by side with their differences marked.

    `titles` default to the names of the architectures. Raises `OrditoError` for another number of specs or titles, and for
    arguments that are not specs. Specs that are too large raise `SpecError` when they are drawn.

    >>> from ordito.spec import Embedding
    >>> spec = Spec(architecture="tiny", context=8, body=Embedding(vocab_size=10, d_model=4))
    >>> print(draw(spec, titles=["A table"]).text())
    A table
    40 parameters, 0 layers, d_model 4, context 8
    <BLANKLINE>
    embedding  10 x 4
    """
    if len(specs) not in (1, 2):
        raise OrditoError(f"draw: got {len(specs)} architectures, expected one or two")
    for spec in specs:
        expect_spec(spec, "draw")
    if titles is not None and len(titles) != len(specs):
        raise OrditoError(f"draw: got {len(titles)} titles for {len(specs)} architectures, expected one for each")
    shown = [_title(title) for title in (titles or [spec.architecture for spec in specs])]
    return Drawing(specs, tuple(shown))


@dataclass(frozen=True)
class Drawing:
    """One architecture, or two with their differences: as SVG, PNG or text. `draw` makes it."""

    specs: tuple[Spec, ...]
    titles: tuple[str, ...]

    @cached_property
    def plans(self) -> tuple[Plan, ...]:
        """The plan of each architecture. Raises `SpecError` if it is too large to draw."""
        with _drawable(self.titles):
            plans = tuple(plan(spec) for spec in self.specs)
            for title, spec, each in zip(self.titles, self.specs, plans, strict=True):
                _check_size(title, spec, each)
        return plans

    @cached_property
    def figure(self) -> Figure:
        """The picture as rectangles, lines and texts with coordinates. Raises `SpecError` if it is too large to draw."""
        plans = self.plans
        with _drawable(self.titles):
            marked = [none(plans[0])] if len(plans) == 1 else [differences(p, q) for p, q in (plans, plans[::-1])]
            pages = [
                page(plans[i], Heading(self.titles[i], self._facts(i)), marked[i], spec.d_model)
                for i, spec in enumerate(self.specs)
            ]
        return pages[0] if len(pages) == 1 else together(pages)

    def svg(self, theme: str = "light") -> str:
        """The picture as an SVG document, on the background of the theme, `light` or `dark`."""
        return svg(self.figure, theme, " and ".join(self.titles))

    def png(self, scale: float = 2.0, theme: str = "light") -> bytes:
        """The picture as PNG, with `scale` pixels for each px of the SVG."""
        if not 0.1 <= scale <= 10:
            raise OrditoError(f"scale: got {scale}, expected 0.1 to 10")
        return png(self.svg(theme), scale)

    def text(self) -> str:
        """The architectures as compact text, one line per step."""
        with _drawable(self.titles):
            return "\n\n".join(
                text(each, title, summary(spec)) for each, title, spec in zip(self.plans, self.titles, self.specs, strict=True)
            )

    def save(self, path: str | Path, theme: str = "light", scale: float = 2.0) -> None:
        """Write the picture to a file, atomically; its ending .svg or .png selects the format.

        Raises `OrditoError` for another ending, or if the file cannot be written.
        """
        path = Path(path)
        match path.suffix.lower():
            case ".svg":
                write_atomically(path, [self.svg(theme).encode("utf-8")])
            case ".png":
                write_atomically(path, [self.png(scale, theme)])
            case ending:
                raise OrditoError(f"{path}: got the ending {ending or '(none)'!r}, expected .svg or .png")

    def _repr_svg_(self) -> str:
        """The picture, for notebooks."""
        return self.svg()

    def _facts(self, number: int) -> tuple[tuple[str, bool], ...]:
        """The facts under a title, each with a flag whether the other architecture differs in it."""
        facts, *others = [summary(spec) for spec in (self.specs[number], *self.specs[:number], *self.specs[number + 1 :])]
        return tuple((fact, any(fact not in other for other in others)) for fact in facts)


@contextmanager
def _drawable(titles: tuple[str, ...]) -> Iterator[None]:
    """Raise a `RecursionError` as a `SpecError`: an architecture may be nested too deeply."""
    try:
        yield
    except RecursionError:
        raise SpecError(f"{' and '.join(titles)}: blocks are nested too deeply to draw") from None


def _check_size(title: str, spec: Spec, drawn: Plan) -> None:
    """Raise `SpecError` for an architecture that is too large to draw."""
    if totals(spec)[0] > MOST_PARAMETERS:
        raise SpecError(f"{title}: its sizes are too large to draw, expected at most {MOST_PARAMETERS:.0e} parameters")
    columns = [*drawn.body, *drawn.encoder, *(block for outlet in drawn.outlets for block in outlet)]
    counts = {f"in layer {kind.letter}": len(leaves_of(kind.layer)) for kind in drawn.drawn}
    for where, n in ({"outside its layers": len(columns)} | counts).items():
        if n > MOST_BLOCKS:
            raise SpecError(f"{title}: got {n:,} blocks {where}, expected at most {MOST_BLOCKS} to draw")


def _title(title: str) -> str:
    """A title on one line, without control characters, truncated to `LONGEST_TITLE`."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in title[: 4 * LONGEST_TITLE]).split())
    return clean if len(clean) <= LONGEST_TITLE else clean[: LONGEST_TITLE - 1] + "…"
