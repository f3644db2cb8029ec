"""Text widths, from the advance widths in the font file with which drawings are rendered."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from struct import unpack_from

FAMILY = "Inter"
"""The family that the font files name."""


def font_path(bold: bool) -> Path:
    """The font file of a weight."""
    return Path(str(files("ordito.drawing") / "font" / f"Inter-{'SemiBold' if bold else 'Regular'}.otf"))


def width(text: str, size: float, bold: bool = False) -> float:
    """The width of a text in px, at a font size in px. A character that the font lacks counts as an em.

    >>> round(width("attention", 15), 1)
    63.6
    """
    advances = _advances(bold)
    return size * sum(advances.get(character, 1.0) for character in text)


def wrap(text: str, size: float, room: float, bold: bool = False) -> list[str]:
    """The text in lines of at most `room` px, broken between words, or within a word that is wider than that."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if width(longer, size, bold) <= room:
            line = longer
            continue
        if line:
            lines.append(line)
        while width(word, size, bold) > room and len(word) > 1:
            head = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or width(word[:n], size, bold) <= room)
            lines.append(word[:head])
            word = word[head:]
        line = word
    return [*lines, line] if line else lines or [""]


def cut(text: str, size: float, room: float, bold: bool = False) -> str:
    """The text, or as much of its beginning as fits into `room` px with an ellipsis."""
    if width(text, size, bold) <= room:
        return text
    while text and width(text + "…", size, bold) > room:
        text = text[:-1]
    return text.rstrip() + "…"


@cache
def _advances(bold: bool) -> dict[str, float]:
    """Character -> advance in em, from the tables `head`, `hhea`, `hmtx` and `cmap` (format 4) of the font file."""
    data = font_path(bold).read_bytes()
    tables = {}
    for i in range(unpack_from(">H", data, 4)[0]):
        tag, _, offset, _ = unpack_from(">4sLLL", data, 12 + 16 * i)
        tables[tag] = offset
    (em,) = unpack_from(">H", data, tables[b"head"] + 18)
    (n_metrics,) = unpack_from(">H", data, tables[b"hhea"] + 34)

    def advance(glyph: int) -> float:
        return float(unpack_from(">H", data, tables[b"hmtx"] + 4 * min(glyph, n_metrics - 1))[0] / em)

    return {chr(code): advance(glyph) for code, glyph in _characters(data, tables[b"cmap"]).items()}


def _characters(data: bytes, cmap: int) -> dict[int, int]:
    """Code point -> glyph, of the first subtable, which has segments of consecutive codes."""
    table = cmap + unpack_from(">L", data, cmap + 8)[0]
    form, _, _, doubled = unpack_from(">4H", data, table)
    assert form == 4, f"{FAMILY}'s character map has format {form}"
    n = doubled // 2
    ends = unpack_from(f">{n}H", data, table + 14)
    starts = unpack_from(f">{n}H", data, table + 16 + 2 * n)
    deltas = unpack_from(f">{n}H", data, table + 16 + 4 * n)
    offsets = unpack_from(f">{n}H", data, table + 16 + 6 * n)
    glyphs = {}
    for i, (start, end, delta, offset) in enumerate(zip(starts, ends, deltas, offsets, strict=True)):
        for code in range(start, min(end, 0xFFFE) + 1):
            glyph = code
            if offset:
                glyph = unpack_from(">H", data, table + 16 + 6 * n + 2 * i + offset + 2 * (code - start))[0]
            glyphs[code] = (glyph + delta) & 0xFFFF
    return glyphs
