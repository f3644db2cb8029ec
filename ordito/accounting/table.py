"""A table of words and numbers: as aligned text for terminals, as HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Table:
    """A title, the names of the columns, and rows of cells. A column whose name begins with `>` is flush right."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def lines(self) -> list[str]:
        """The table as lines of text; trailing blanks are left out."""
        right = [name.startswith(">") for name in self.columns]
        rows = [self.names, *self.rows] if any(self.names) else list(self.rows)
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))] if rows else []
        cells = [
            "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
            for row in rows
        ]
        return [*([self.title] if self.title else []), *("  " + line if self.title else line for line in cells)]

    def html(self) -> str:
        """The table as HTML. Everything that it says is escaped."""
        right = [' style="text-align:right"' if name.startswith(">") else ' style="text-align:left"' for name in self.columns]

        def row(cells: Sequence[str], tag: str) -> str:
            inner = "".join(
                f"<{tag}{style}>{escape(cell).replace('  ', '&emsp;')}</{tag}>"
                for cell, style in zip(cells, right, strict=True)
            )
            return f"<tr>{inner}</tr>"

        head = f"<thead>{row(self.names, 'th')}</thead>" if any(self.names) else ""
        body = "".join(row(cells, "td") for cells in self.rows)
        return f"<table><caption>{escape(self.title)}</caption>{head}<tbody>{body}</tbody></table>"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns without their marks."""
        return tuple(name.removeprefix(">") for name in self.columns)
