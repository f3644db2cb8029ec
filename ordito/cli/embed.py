"""`ordito embed`: embedding vectors of texts."""

from __future__ import annotations

from itertools import chain

import click

from ordito.cli.console import load, piped, refuse_not_finite, write_json
from ordito.cli.parameters import arithmetic, backend_name, one_model, quantization
from ordito.errors import OrditoError


@click.command()
@one_model("A name, org/name[@revision], or a path: minilm, for example.")
@click.argument("texts", nargs=-1, metavar="[TEXT]...", help="What to embed; without it, lines of standard input.")
@click.option("--prompt", metavar="NAME", help="A task for which the model has a prefix: query, document, ...")
@click.option("--dimensions", type=int, help="Only the first numbers of each vector, of models trained for it (matryoshka).")
@backend_name
@arithmetic
@quantization
@click.option("--json", is_flag=True, help="Print one JSON object instead of a line for each text.")
def embed(
    model: str,
    texts: tuple[str, ...],
    prompt: str | None,
    dimensions: int | None,
    backend: str | None,
    dtype: str | None,
    quantize: str | None,
    json: bool,
) -> None:
    """Print the embedding vector of each TEXT, one JSON array a line.

    \b
    ordito embed minilm "a loom" "un telaio"
    ordito embed minilm < sentences.txt > vectors.jsonl
    """
    # Only newlines separate texts: str.splitlines would split at eight other characters, too.
    lines = list(texts) or [line.removesuffix("\r") for line in (piped() or "").removesuffix("\n").split("\n")]
    if lines == [""]:
        raise OrditoError("there is nothing to embed: give texts, or lines on standard input")
    loaded, local = load(model, backend, dtype=dtype, quantize=quantize)
    vectors = loaded.embed(lines, prompt=prompt, dimensions=dimensions).tolist()
    refuse_not_finite(local.name, "its vectors are", chain.from_iterable(vectors))
    if json:
        write_json({"model": model, "dimensions": len(vectors[0]), "embeddings": vectors}, indent=None)
    else:
        for vector in vectors:
            write_json(vector, indent=None)
