"""`ordito perplexity`: how well a model predicts a text."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import load, refuse_not_finite, text_of, working, write, write_json
from ordito.cli.parameters import arithmetic, backend_name, default_model, json_output, quantization
from ordito.errors import OrditoError
from ordito.units import plural

_WINDOW = 512
WINDOW_DEFAULT = f"[default: {_WINDOW}, or the model's context if that is smaller]"
"""The default of `--context`, as the help shows it."""


@click.command()
@default_model("A name, or a path.")
@click.option("--file", "-f", required=True, type=click.Path(path_type=Path), help="The text; - is standard input.")
@click.option("--context", "-c", type=int, help=f"Tokens of a window. {WINDOW_DEFAULT}")
@click.option("--windows", "-n", type=click.IntRange(min=1), help="Read only the first N windows of the text. [default: all]")
@click.option("--reference", help="Also print the KL divergence from this model, run in fp32.")
@backend_name
@arithmetic
@quantization
@json_output
def perplexity(
    model: str,
    file: Path,
    context: int | None,
    windows: int | None,
    reference: str | None,
    backend: str | None,
    dtype: str | None,
    quantize: str | None,
    json: bool,
) -> None:
    """Measure the perplexity of MODEL on a text: e to the mean of -ln p(token), over the second half of each window.

    \b
    ordito perplexity smollm2 -f book.txt
    ordito perplexity smollm2 -f book.txt -n 8 --dtype int8 --reference smollm2
    """
    from ordito.engine.perplexity import perplexity as measure

    text = text_of(file)
    loaded, local = load(model, backend, dtype=dtype, quantize=quantize)
    context = window(loaded.spec.context, context)
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
    refuse_not_finite(local.name, "its perplexity is", [found.perplexity])
    refuse_not_finite(reference or local.name, "its KL divergence is", [found.divergence or 0, found.greatest or 0])
    if json:
        write_json({"model": local.name, **found.to_dict()})
        return
    where = f"{found.tokens} tokens in {plural(found.windows, 'window')}"
    write(f"perplexity {found.perplexity:.4f} ± {found.error:.4f} over {where}\n")
    if found.divergence is not None:
        best = f"same best token {100 * (found.same_best or 0):.2f} %"
        write(f"KL divergence {found.divergence:.3g}, at most {found.greatest:.3g}; {best}\n")


def window(longest: int, asked: int | None) -> int:
    """The tokens of a window: those `asked` for, or the default. Raises `OrditoError` if they do not fit into the context."""
    tokens = min(_WINDOW, longest) if asked is None else asked
    if not 4 <= tokens <= longest:
        raise OrditoError(f"--context: got windows of {tokens} tokens, expected 4 to {longest}, which the model was made for")
    return tokens
