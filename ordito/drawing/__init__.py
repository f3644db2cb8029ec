"""Architectures drawn: a spec -> a block diagram as SVG or PNG, and compact text; two specs -> what differs, marked."""

from ordito.drawing.drawing import Drawing, draw

__all__ = ["Drawing", "draw"]
