"""The colours of the two themes, by role. Each kind of block has a fill and an edge."""

from __future__ import annotations

from ordito.errors import OrditoError, unknown

_LIGHT = {
    "page": "#ffffff",
    "card": "#fafbfc",
    "card.edge": "#d5dae1",
    "group": "#eef1f5",
    "group.edge": "#aab3c0",
    "text": "#1b2430",
    "quiet": "#5a6675",
    "line": "#5f6b7a",
    "badge": "#2b3544",
    "badge.text": "#ffffff",
    "new": "#b4123f",
    "new.fill": "#fde4ea",
    "embedding.fill": "#e3f3f3",
    "embedding.edge": "#2e8a8f",
    "norm.fill": "#fbf2dc",
    "norm.edge": "#b58a2a",
    "attention.fill": "#e5effb",
    "attention.edge": "#3a6fb5",
    "mlp.fill": "#e6f4ea",
    "mlp.edge": "#3d8b57",
    "mixture.fill": "#f1eafa",
    "mixture.edge": "#7850b0",
    "dense.fill": "#fae9e6",
    "dense.edge": "#b4583f",
    "head.fill": "#e3f3f3",
    "head.edge": "#2e8a8f",
    "layer.fill": "#ffffff",
    "layer.edge": "#6b7788",
}
_DARK = {
    "page": "#11161d",
    "card": "#171e27",
    "card.edge": "#313c4a",
    "group": "#1e2732",
    "group.edge": "#526072",
    "text": "#e8edf3",
    "quiet": "#a3b0bf",
    "line": "#94a2b3",
    "badge": "#dbe3ec",
    "badge.text": "#141a22",
    "new": "#ff8fab",
    "new.fill": "#4a1626",
    "embedding.fill": "#143336",
    "embedding.edge": "#4fb3b8",
    "norm.fill": "#372d14",
    "norm.edge": "#d0a748",
    "attention.fill": "#172c48",
    "attention.edge": "#6fa3e6",
    "mlp.fill": "#17351f",
    "mlp.edge": "#62b67e",
    "mixture.fill": "#2d2044",
    "mixture.edge": "#ab87e0",
    "dense.fill": "#3b211a",
    "dense.edge": "#e08b70",
    "head.fill": "#143336",
    "head.edge": "#4fb3b8",
    "layer.fill": "#11161d",
    "layer.edge": "#8795a6",
}
THEMES = {"light": _LIGHT, "dark": _DARK}


def colours(theme: str) -> dict[str, str]:
    """The colours of a theme, by role. Raises `OrditoError` for an unknown theme."""
    if theme not in THEMES:
        raise OrditoError(unknown("theme", theme, THEMES))
    return THEMES[theme]
