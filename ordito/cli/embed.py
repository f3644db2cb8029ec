"""`ordito embed`: vectors of texts."""

from __future__ import annotations

import typer

from ordito.cli.console import load, piped, write_json
from ordito.errors import OrditoError


def embed(
    model: str = typer.Argument(..., metavar="MODEL", help="A name, org/name[@revision], or a path: minilm, for example."),
    texts: list[str] = typer.Argument(None, metavar="TEXT", help="What to embed; without it, lines of standard input."),
    prompt: str = typer.Option(None, metavar="NAME", help="The task, where the model has words for it: query, document, ..."),
    backend: str = typer.Option(None, help="What computes (native, torch); the fastest installed, if not named."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object instead of a line for each text."),
) -> None:
    """Print the vector of each TEXT, one JSON array a line.

    \b
    ordito embed minilm "a loom" "un telaio"
    ordito embed minilm < sentences.txt > vectors.jsonl
    """
    if not texts:
        # Only newlines part texts, so that each line has its vector; str.splitlines knows eight other characters.
        texts = [line.removesuffix("\r") for line in (piped() or "").removesuffix("\n").split("\n")]
    if texts == [""]:
        raise OrditoError("there is nothing to embed: give texts, or lines on standard input")
    vectors = load(model, backend)[0].embed(texts, prompt=prompt).tolist()
    if json:
        write_json({"model": model, "dimensions": len(vectors[0]), "embeddings": vectors}, indent=None)
    else:
        for vector in vectors:
            write_json(vector, indent=None)
