"""Text widths, read from the font, against rendered texts."""

from __future__ import annotations

import struct
import zlib

import pytest

from ordito.drawing.measure import cut, width, wrap
from ordito.drawing.png import png


def ink(text: str, size: float, bold: bool) -> tuple[int, int]:
    """The first and the last pixel column of a rendered text."""
    weight = ' font-weight="600"' if bold else ""
    document = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="800" height="40">'
        f'<text x="20" y="30" font-size="{size}" font-family="Inter"{weight}>{text}</text></svg>'
    )
    data, at, parts = png(document, 1), 8, []
    columns, rows = struct.unpack(">II", data[16:24])
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        parts += [data[at + 8 : at + 8 + length]] if data[at + 4 : at + 8] == b"IDAT" else []
        at += 12 + length
    raw, stride = zlib.decompress(b"".join(parts)), 4 * columns + 1
    previous, inked = bytearray(4 * columns), set()
    for row in range(rows):
        line = _unfiltered(raw[row * stride], raw[row * stride + 1 : (row + 1) * stride], previous)
        inked |= {column for column in range(columns) if line[4 * column + 3] > 40}
        previous = line
    return min(inked), max(inked)


def _unfiltered(kind: int, line: bytes, above: bytearray) -> bytearray:
    """A decoded row of a PNG (RFC 2083, section 6) with four bytes per pixel."""
    out = bytearray(len(line))
    for i, byte in enumerate(line):
        left, up, corner = (out[i - 4] if i >= 4 else 0), above[i], (above[i - 4] if i >= 4 else 0)
        estimate = left + up - corner
        nearest = min((left, up, corner), key=lambda value: abs(estimate - value))
        out[i] = (byte + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
    return out


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize("text", ["Grouped-query attention 41.9M", "θ 500,000 × √d_model ≠ 1e-06 → …", "WAVE To. 1/√168"])
def test_a_rendered_text_is_as_wide_as_measured(text, bold):
    first, last = ink(f"|{text}|", 20, bold)
    bar = width("|", 20, bold)
    assert last - first == pytest.approx(width(f"|{text}|", 20, bold) - bar, abs=bar / 2 + 1)


def test_bold_is_wider_and_what_the_font_lacks_counts_as_an_em():
    assert width("attention", 10, True) > width("attention", 10)
    assert width("線", 10) == 10


@pytest.mark.parametrize("text", ["one two three four five", "averyverylongwordindeed and more", "", "x" * 200])
@pytest.mark.parametrize("room", [5, 60, 200])
def test_wrapping_keeps_every_character_within_the_room(text, room):
    lines = wrap(text, 14, room)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(width(line, 14) <= room or len(line) == 1 for line in lines)


def test_cutting():
    assert cut("attention", 14, 1000) == "attention"
    assert cut("attention", 14, 40).endswith("…")
    assert width(cut("attention", 14, 40), 14) <= 40
