"""`ordito imatrix`: which columns of a model's matrices matter, for a quantization that spares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ordito.cli.console import load, refuse_no_numbers, say, text_of, working
from ordito.cli.convert import refuse_what_is_there
from ordito.cli.parameters import one_model
from ordito.cli.perplexity import WINDOW_DEFAULT, window


@click.command()
@one_model()
@click.option(
    "--file",
    "-f",
    required=True,
    type=click.Path(path_type=Path),
    help="A text of the kind that the model is for; - is standard input.",
)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="OUT.gguf", help="Where it goes.")
@click.option("--context", "-c", type=click.IntRange(min=16), help=f"Tokens of a window. {WINDOW_DEFAULT}")
@click.option("--windows", "-n", type=click.IntRange(min=1), help="How many windows of the text. [default: all]")
@click.option("--force", is_flag=True, help="Write over what is there.")
def imatrix(model: str, file: Path, output: Path, context: int | None, windows: int | None, force: bool) -> None:
    """Read a text with MODEL and write the importance matrix that `ordito quantize` and llama-quantize take.

    \b
    ordito imatrix smollm2 -f book.txt -o smollm2-imatrix.gguf -n 50
    """
    from ordito.checkpoint.convert import expressible
    from ordito.checkpoint.importance import write_importance
    from ordito.engine.backends import load_runtime
    from ordito.engine.calibration import importance

    refuse_what_is_there(output, force)
    text = text_of(file)
    loaded, local = load(model, "native")
    context = window(loaded.spec.context, context)
    runtime, (bare, _) = loaded.runtime, expressible(loaded.spec)
    if bare != loaded.spec:  # what GGUF has no place for, as BERT's pooler, is not quantized either
        runtime = load_runtime(replace(loaded.checkpoint, spec=bare), "native")
    with working(f"reading {file.name}"):
        found = importance(runtime, loaded.tokenizer.encode(text), dataset=file.name, context=context, windows=windows)
    refuse_no_numbers(local.name, "its activations are", (float(sums.max()) for sums in found.sums.values()))
    write_importance(output, found)
    say(f"what matters to {len(found.sums)} matrices of {local.name} on {found.windows} windows of {file.name} is in {output}")
