"""`ordito convert`: a model from one format into another."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.parameters import one_model
from ordito.errors import OrditoError

_FILES = (".txt", ".bin", ".safetensors", ".json", ".zip", ".pt", ".pth")
"""Who names one of these wants a file; `model-v0.1` may well be a folder."""


@click.command()
@one_model()
@click.argument(
    "output",
    type=click.Path(),
    metavar="OUT",
    help="A file that ends in .gguf, or a folder (Hugging Face's layout).",
)
@click.option("--dtype", help="A file: f16 (default), f32, bf16, q8_0, q4_k_m, ...; a folder: f32, f16, bf16.")
@click.option("--force", is_flag=True, help="Write over what is there.")
def convert(model: str, output: str, dtype: str | None, force: bool) -> None:
    """Write MODEL as GGUF, which llama.cpp reads, or as a folder, which transformers reads. PyTorch is not needed.

    \b
    ordito convert ./my-model my-model.gguf --dtype q8_0
    ordito convert gemma3-270m ./gemma3-270m-hf
    """
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.saving import convert as written

    if not output:
        raise OrditoError("OUT is empty, expected a name that ends in .gguf, or that of a folder")
    out = named(Path(output))
    if out.suffix.lower() in _FILES and not out.exists():
        raise OrditoError(f"{out}: expected a name that ends in .gguf, or that of a folder, which does not end in {out.suffix}")
    refuse_what_is_there(out, force)
    local = find(model)
    with working(f"converting {local.name}"):
        path = written(open_checkpoint(local.path), out, dtype=dtype)
    say(f"{local.name} is in {path}")


def named(output: Path) -> Path:
    """A file's name with its .gguf in small letters, by which it is known when it is read; other names as they are."""
    return output.with_suffix(".gguf") if output.suffix.lower() == ".gguf" else output


def refuse_what_is_there(output: Path, force: bool) -> None:
    """Nothing is written over without being asked. Raises `OrditoError`."""
    if output.exists() and not force and not (output.is_dir() and not any(output.iterdir())):
        raise OrditoError(f"{output} is there already: choose another name, or say --force")
