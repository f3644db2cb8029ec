"""Draw docs/chat.txt, a session copied from a terminal, as docs/chat.svg for the README.

Lines that begin with `$ ` were typed at the shell, `>>> ` in the chat.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parent
CHAR, LINE, MARGIN, BAR = 8.43, 20, 18, 34
COLOURS = {"$ ": "#7ee787", ">>> ": "#79c0ff"}


def svg(lines: list[str]) -> str:
    """A dark terminal window that shows the lines."""
    width = round(2 * MARGIN + CHAR * max(map(len, lines)))
    height = BAR + MARGIN + LINE * len(lines)
    dots = "".join(
        f'<circle cx="{20 + 18 * i}" cy="17" r="5.5" fill="{c}"/>' for i, c in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    texts = []
    for number, line in enumerate(lines):
        mark = next((mark for mark in COLOURS if line.startswith(mark)), "")
        y = BAR + LINE * (number + 1) - 4
        body = f'<tspan fill="{COLOURS[mark]}">{escape(mark)}</tspan>' if mark else ""
        texts.append(f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{body}{escape(line[len(mark) :])}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
            '<style>text { font: 14px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; fill: #e6edf3 }</style>',
            f'<rect width="{width}" height="{height}" rx="9" fill="#161b22"/>',
            dots,
            *texts,
            "</svg>",
            "",
        ]
    )


if __name__ == "__main__":
    (DOCS / "chat.svg").write_text(svg((DOCS / "chat.txt").read_text(encoding="utf-8").splitlines()), encoding="utf-8")
