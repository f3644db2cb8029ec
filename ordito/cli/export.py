"""`ordito export`: a model as vLLM and transformers serve it."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.convert import refuse_what_is_there
from ordito.cli.parameters import one_model


@click.command()
@one_model()
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option("--dtype", default="bf16", type=click.Choice(["bf16", "f16", "f32"]), help="How weights are stored.")
@click.option("--force", is_flag=True, help="Write over what is there.")
def export(model: str, folder: Path, dtype: str, force: bool) -> None:
    """Write MODEL as a folder that vLLM serves, on GPUs and on several machines.

    Quantized weights become what they stand for, in 16 bits. See docs/serving.md for the way from there.

    \b
    ordito export smollm2 --to smollm2-hf
    vllm serve smollm2-hf
    """
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.saving import convert

    refuse_what_is_there(folder, force)
    local = find(model)
    with working(f"writing {local.name}"):
        path = convert(open_checkpoint(local.path), folder, dtype=dtype)
    say(f"{local.name} is in {path}; to serve it: vllm serve {shlex.quote(str(path))}")
