"""`ordito imatrix`: the importance matrix, by which quantization rounds important columns more carefully."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from ordito.cli.console import load, refuse_not_finite, say, text_of, working
from ordito.cli.convert import refuse_overwriting
from ordito.cli.parameters import one_model
from ordito.cli.perplexity import WINDOW_DEFAULT, window
from ordito.units import plural


@click.command()
@one_model()
@click.option(
    "--file",
    "-f",
    required=True,
    type=click.Path(path_type=Path),
    help="A text like those that the model will process; - is standard input.",
)
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), metavar="OUT.gguf", help="The file to write.")
@click.option("--context", "-c", type=click.IntRange(min=16), help=f"Tokens of a window. {WINDOW_DEFAULT}")
@click.option("--windows", "-n", type=click.IntRange(min=1), help="Read only the first N windows of the text. [default: all]")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def imatrix(model: str, file: Path, output: Path, context: int | None, windows: int | None, force: bool) -> None:
    """Run MODEL on a text and write an importance matrix for `ordito quantize` or llama-quantize.

    \b
    ordito imatrix smollm2 -f book.txt -o smollm2-imatrix.gguf -n 50
    """
    from ordito.checkpoint.convert import expressible
    from ordito.checkpoint.importance import write_importance
    from ordito.engine.backends import load_runtime
    from ordito.engine.calibration import importance

    refuse_overwriting(output, force)
    text = text_of(file)
    loaded, local = load(model, "native")
    context = window(loaded.spec.context, context)
    runtime, (bare, _) = loaded.runtime, expressible(loaded.spec)
    if bare != loaded.spec:  # blocks that GGUF cannot hold, such as BERT's pooler, are not quantized
        runtime = load_runtime(replace(loaded.checkpoint, spec=bare), "native")
    with working(f"reading {file.name}"):
        found = importance(runtime, loaded.tokenizer.encode(text), dataset=file.name, context=context, windows=windows)
    refuse_not_finite(local.name, "its activations are", (float(sums.max()) for sums in found.sums.values()))
    write_importance(output, found)
    matrices = f"{len(found.sums)} matrices of {local.name}"
    say(f"{output} has the importance of {matrices}, measured on {plural(found.windows, 'window')} of {file.name}")
