"""SVG -> PNG by resvg, with the font with which the layout was measured."""

from __future__ import annotations

from ordito.drawing.measure import FAMILY, font_path
from ordito.errors import MissingDependencyError


def png(document: str, scale: float) -> bytes:
    """The SVG document as PNG with `scale` pixels for each px."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError:
        raise MissingDependencyError("PNG needs the package resvg_py: pip install resvg_py, or write SVG") from None
    fonts = [str(font_path(bold)) for bold in (False, True)]
    return bytes(
        svg_to_bytes(svg_string=document, zoom=scale, skip_system_fonts=True, font_files=fonts, sans_serif_family=FAMILY)
    )
