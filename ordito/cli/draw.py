"""`ordito draw`: an architecture as a picture, or two with their differences marked."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import known, write
from ordito.errors import OrditoError


@click.command()
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL [OTHER]", help="A published model by name, or a path; one or two."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="The picture to write: .svg or .png.")
@click.option("--theme", help="light or dark.  [light]")
@click.option("--scale", type=float, help="Pixels of a PNG for each pixel of the SVG.  [2.0]")
def draw(models: tuple[str, ...], output: Path | None, theme: str | None, scale: float | None) -> None:
    """Draw the architecture of MODEL from its configuration alone, or two side by side with differences marked.

    Without FILE the architecture is printed as compact text. Weights are not read, and PyTorch is not needed.

    \b
    ordito draw gemma-3-27b -o gemma.svg
    ordito draw llama-2-7b llama-3-8b -o llamas.png
    """
    from ordito.drawing import draw as drawn

    if output is None and (theme, scale) != (None, None):
        raise OrditoError("--theme and --scale are of a picture: give -o FILE, too")
    outlines = [known(name) for name in models]
    drawing = drawn(*(one.spec for one in outlines), titles=[one.name for one in outlines])
    if output is None:
        write(drawing.text() + "\n")
    else:
        drawing.save(output, theme="light" if theme is None else theme, scale=2.0 if scale is None else scale)
