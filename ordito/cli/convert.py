"""`ordito convert`: a model from one format into another."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.parameters import one_model
from ordito.errors import OrditoError

_FILE_SUFFIXES = (".txt", ".bin", ".safetensors", ".json", ".zip", ".pt", ".pth")
"""Suffixes of files that cannot be meant as folders; others can (`model-v0.1`)."""


@click.command()
@one_model()
@click.argument(
    "output",
    type=click.Path(),
    metavar="OUT",
    help="A file that ends in .gguf, or a folder (Hugging Face's layout).",
)
@click.option("--dtype", help="GGUF: f16 (default), f32, bf16, q8_0, q4_k_m, ...; folder: f32, f16, bf16.")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def convert(model: str, output: str, dtype: str | None, force: bool) -> None:
    """Convert MODEL to a GGUF file (llama.cpp) or to a folder (transformers). PyTorch is not needed.

    \b
    ordito convert ./my-model my-model.gguf --dtype q8_0
    ordito convert gemma3-270m ./gemma3-270m-hf
    """
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.saving import convert as written

    if not output:
        raise OrditoError("OUT is empty, expected a name that ends in .gguf, or that of a folder")
    out = with_gguf_suffix(Path(output))
    if out.suffix.lower() in _FILE_SUFFIXES and not out.exists():
        raise OrditoError(f"{out}: expected a name that ends in .gguf, or that of a folder, which does not end in {out.suffix}")
    refuse_overwriting(out, force)
    local = find(model)
    with working(f"converting {local.name}"):
        path = written(open_checkpoint(local.path), out, dtype=dtype)
    say(f"{local.name} is in {path}")


def with_gguf_suffix(output: Path) -> Path:
    """The path with a suffix like .GGUF in lower case, as readers expect it; other paths unchanged."""
    return output.with_suffix(".gguf") if output.suffix.lower() == ".gguf" else output


def refuse_overwriting(output: Path, force: bool) -> None:
    """Raise `OrditoError` if `output` exists and is not an empty folder, unless `force`."""
    if output.exists() and not force and not (output.is_dir() and not any(output.iterdir())):
        raise OrditoError(f"{output} exists already: choose another name, or overwrite it with --force")
