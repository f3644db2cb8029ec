"""`ordito imatrix`: which columns of a model's matrices matter, for a quantization that spares them."""

from __future__ import annotations

from pathlib import Path

import typer

from ordito.cli.console import load, say, working
from ordito.cli.convert import refuse_what_is_there


def imatrix(
    model: str = typer.Argument(..., metavar="MODEL", help="A name, org/name[:quant][@revision], or a path."),
    file: Path = typer.Option(..., "--file", "-f", help="A text of the kind that the model is for."),
    output: Path = typer.Option(..., "--output", "-o", metavar="OUT.gguf", help="Where it goes."),
    context: int = typer.Option(512, "--context", "-c", min=16, help="Tokens of a window."),
    windows: int | None = typer.Option(None, "--windows", "-n", min=1, help="How many windows of the text. [default: all]"),
    force: bool = typer.Option(False, "--force", help="Write over what is there."),
) -> None:
    """Read a text with MODEL and write the importance matrix that `ordito quantize` and llama-quantize take.

    \b
    ordito imatrix smollm2 -f book.txt -o smollm2-imatrix.gguf -n 50
    """
    from ordito.checkpoint.importance import write_importance
    from ordito.engine.calibration import importance

    refuse_what_is_there(output, force)
    text = file.read_text(encoding="utf-8", errors="replace")
    loaded, local = load(model, "native")
    with working(f"reading {file.name}"):
        found = importance(loaded.runtime, loaded.tokenizer.encode(text), dataset=file.name, context=context, windows=windows)
    write_importance(output, found)
    say(f"what matters to {len(found.sums)} matrices of {local.name} on {found.windows} windows of {file.name} is in {output}")
