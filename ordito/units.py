"""Formatting of numbers with units."""

from __future__ import annotations


def size(nbytes: float) -> str:
    """Bytes in B, kB, MB, GB or TB.

    >>> size(98_362_432), size(999_960_000)
    ('98.4 MB', '1.0 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.95:
            return f"{nbytes:.1f} {unit}" if unit != "B" else f"{nbytes:.0f} B"
        nbytes /= 1000
    return f"{nbytes:.1f} TB"


def plural(number: int, what: str) -> str:
    """A count and its noun, in the singular or plural.

    >>> plural(1, "head"), plural(4, "head")
    ('1 head', '4 heads')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def short(number: float) -> str:
    """A number to three significant digits with a suffix: k, M, B or T.

    >>> short(46_702_792_704), short(134_515_008), short(576)
    ('46.7B', '135M', '576')
    """
    for unit, scale in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * scale:
            value = number / scale
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{unit}"
    return f"{number:.0f}"
