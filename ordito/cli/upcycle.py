"""`ordito upcycle`: a dense model made into a mixture of experts."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import find, say, working
from ordito.cli.convert import refuse_overwriting
from ordito.cli.parameters import one_model


@click.command()
@one_model()
@click.argument(
    "output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="A folder (Hugging Face's layout), or a file that ends in .gguf.",
)
@click.option("--experts", default=8, type=click.IntRange(min=2), help="Copies of each feed-forward layer.")
@click.option("--top-k", default=2, type=click.IntRange(min=1), help="Copies that the router chooses for a token.")
@click.option("--granularity", default=1, type=click.IntRange(min=1), help="Experts into which each copy is split.")
@click.option(
    "--every",
    default=1,
    type=click.IntRange(min=1),
    help="Convert every n-th layer (only Qwen's formats can express more than 1).",
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Seed of the routers' random weights.")
@click.option("--dtype", help="Folder: f32 (default), f16, bf16; GGUF: f16 (default), f32, bf16, q8_0, q4_k_m, ...")
@click.option("--force", is_flag=True, help="Overwrite what exists.")
def upcycle(
    model: str, output: Path, experts: int, top_k: int, granularity: int, every: int, seed: int, dtype: str | None, force: bool
) -> None:
    """Turn MODEL into a mixture of experts by copying its feed-forward layers: its outputs stay the same at first.

    LLaMA and Mistral become Mixtral, Qwen models Qwen's mixtures. PyTorch is not needed.

    \b
    ordito upcycle smollm2 ./smollm2-8x --experts 8 --top-k 2
    ordito train pretrain --model ./smollm2-8x --data texts.jsonl --output run --set moe.balance=0.01
    """
    from dataclasses import replace

    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.checkpoint.convert import Weights
    from ordito.saving import write
    from ordito.text.from_checkpoint import load_tokenizer
    from ordito.train.upcycle import upcycle as upcycled

    refuse_overwriting(output, force)
    local = find(model)
    checkpoint = open_checkpoint(local.path)
    spec, weights = upcycled(
        checkpoint.spec, Weights(checkpoint), experts, top_k, granularity=granularity, every=every, seed=seed
    )
    with working(f"upcycling {local.name}"):
        path = write(output, replace(checkpoint, spec=spec), weights, load_tokenizer(checkpoint), dtype=dtype)
    say(f"{local.name} with {experts * granularity} experts, {top_k * granularity} for a token, is in {path}")
