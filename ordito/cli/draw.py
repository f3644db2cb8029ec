"""`ordito draw`: an architecture as a picture, or two with their differences marked."""

from __future__ import annotations

from pathlib import Path

import typer

from ordito.cli.console import known, write


def draw(
    models: list[str] = typer.Argument(metavar="MODEL [OTHER]", help="A published model by name, or a path; one or two."),
    output: Path = typer.Option(None, "-o", "--output", metavar="FILE", help="A picture to write: .svg or .png."),
    theme: str = typer.Option("light", "--theme", help="light or dark."),
    scale: float = typer.Option(2.0, "--scale", help="Pixels of a PNG for each px of the SVG."),
) -> None:
    """Draw the architecture of MODEL, from its configuration alone; of two models, beside each other, what differs is marked.

    Without a FILE the architecture is printed as compact text. Weights are not read, and PyTorch is not needed.

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
