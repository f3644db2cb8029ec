"""`ordito export`: a model as a folder for vLLM and transformers."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.convert import refuse_overwriting
from ordito.cli.parameters import one_model


@click.command()
@one_model()
@click.option("--to", "folder", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Where to write it.")
@click.option("--dtype", default="bf16", type=click.Choice(["bf16", "f16", "f32"]), help="The type of the weights.")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def export(model: str, folder: Path, dtype: str, force: bool) -> None:
    """Write MODEL as a folder that vLLM serves, on GPUs and on several machines.

    Quantized weights are dequantized. docs/serving.md says how to go on.

    \b
    ordito export smollm2 --to smollm2-hf
    vllm serve smollm2-hf
    """
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.saving import convert

    refuse_overwriting(folder, force)
    local = find(model)
    with working(f"writing {local.name}"):
        path = convert(open_checkpoint(local.path), folder, dtype=dtype)
    say(f"{local.name} is in {path}; to serve it: vllm serve {shlex.quote(str(path))}")
