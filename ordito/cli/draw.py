"""`ordito draw`: an architecture as a picture, or two with their differences marked."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import known, write


@click.command()
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL [OTHER]", help="A published model by name, or a path; one or two."
)
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="The picture to write: .svg or .png.")
@click.option("--theme", default="light", help="light or dark.")
@click.option("--scale", default=2.0, help="Pixels of a PNG for each pixel of the SVG.")
def draw(models: tuple[str, ...], output: Path | None, theme: str, scale: float) -> None:
    """Draw the architecture of MODEL from its configuration alone, or two side by side with differences marked.

    Without FILE the architecture is printed as compact text. Weights are not read, and PyTorch is not needed.

    \b
    ordito draw gemma-3-27b -o gemma.svg
    ordito draw llama-2-7b llama-3-8b -o llamas.png
    """
    from ordito.drawing import draw as drawn

    outlines = [known(name) for name in models]
    drawing = drawn(*(one.spec for one in outlines), titles=[one.name for one in outlines])
    if output is None:
        write(drawing.text() + "\n")
    else:
        drawing.save(output, theme=theme, scale=scale)
