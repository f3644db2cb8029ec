"""`ordito perplexity`: how well a model foretells a text."""

from __future__ import annotations

from pathlib import Path

import typer

from ordito.checkpoint.store import DEFAULT_MODEL
from ordito.cli.console import load, working, write, write_json


def perplexity(
    model: str = typer.Argument(DEFAULT_MODEL, metavar="MODEL"),
    file: Path = typer.Option(..., "--file", "-f", help="The text."),
    context: int = typer.Option(512, "--context", "-c", help="Tokens of a window."),
    windows: int | None = typer.Option(None, "--windows", "-n", min=1, help="How many windows of the text. [default: all]"),
    reference: str | None = typer.Option(None, "--reference", help="Also the KL divergence from this model, read in fp32."),
    backend: str | None = typer.Option(None, "--backend", help="What computes. [default: the fastest that is installed]"),
    dtype: str | None = typer.Option(None, "--dtype", help="Its arithmetic: int16, int8, float32."),
    quantize: str | None = typer.Option(None, "--quantize", help="Round the weights first: q8_0, q4_k_m, ..."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Measure the perplexity of MODEL on a text: e to the mean of -ln p(token), over the second half of each window.

    \b
    ordito perplexity smollm2 -f book.txt
    ordito perplexity smollm2 -f book.txt -n 8 --dtype int8 --reference smollm2
    """
    from ordito.engine.perplexity import perplexity as measure

    text = file.read_text(encoding="utf-8", errors="replace")
    loaded, local = load(model, backend, dtype=dtype, quantize=quantize)
    other = load(reference, None, dtype="float32")[0].runtime if reference is not None else None
    start = loaded.tokenizer.special.prefix
    with working("reading the text"):
        found = measure(
            loaded.runtime,
            loaded.tokenizer.encode(text),
            context=context,
            start=start[0] if start else None,
            windows=windows,
            reference=other,
        )
    if json:
        write_json({"model": local.name, **found.to_dict()})
        return
    write(f"perplexity {found.perplexity:.4f} ± {found.error:.4f} over {found.tokens} tokens in {found.windows} windows\n")
    if found.divergence is not None:
        best = f"same best token {100 * (found.same_best or 0):.2f} %"
        write(f"KL divergence {found.divergence:.3g}, at most {found.greatest:.3g}; {best}\n")
