"""`ordito draw`: an architecture as a picture, or two with their differences marked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ordito.cli.console import write
from ordito.cli.show import opened

if TYPE_CHECKING:
    from ordito.spec import Spec


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

    named = [named_spec(name) for name in models]
    drawing = drawn(*(spec for spec, _ in named), titles=[title for _, title in named])
    if output is None:
        write(drawing.text() + "\n")
    else:
        drawing.save(output, theme=theme, scale=scale)


def named_spec(name: str) -> tuple[Spec, str]:
    """The architecture of a model that is named by a path or as in the catalogue, and what to call it."""
    from ordito import catalogue
    from ordito.errors import OrditoError
    from ordito.families import spec_from_config

    if (path := Path(name)).exists():
        path = path.parent if path.name == "config.json" else path
        return opened(path).spec, path.resolve().name
    entry = catalogue.find(name)
    if entry.config is None:
        raise OrditoError(f"{entry.name} is closed: its architecture is not published, so there is nothing to draw")
    return spec_from_config(entry.config, entry.name), entry.name
