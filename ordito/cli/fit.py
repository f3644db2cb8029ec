"""`ordito fit`: whether a model fits into memory, and how fast it will run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ordito.cli.console import known, working, write, write_json, write_table
from ordito.cli.parameters import default_model, json_output
from ordito.units import size

if TYPE_CHECKING:
    from ordito.fitting import Fit


@click.command()
@default_model("A name, a config.json, a GGUF file, a folder, or org/name.")
@click.option(
    "--context",
    "-c",
    type=int,
    help="Tokens of each sequence (T5: of source and answer each). [default: 4096, or the model's context if smaller]",
)
@click.option("--batch", "-b", default=1, help="Sequences at once.")
@click.option("--quant", "-q", help="Assume this quantization: Q4_K_M, Q8_0, BF16, ...")
@click.option("--memory", type=float, help="GB of another machine, instead of what is free here.")
@click.option("--bandwidth", type=float, help="GB/s of another machine, instead of what is measured.")
@json_output
def fit(
    model: str, context: int | None, batch: int, quant: str | None, memory: float | None, bandwidth: float | None, json: bool
) -> None:
    """Predict whether MODEL fits into memory, up to which context, and how fast it runs. Only headers are downloaded.

    \b
    ordito fit gemma3-270m --context 8192
    ordito fit llama-3.1-8b --quant Q4_K_M --memory 16 --bandwidth 50
    """
    from ordito.errors import OrditoError
    from ordito.fitting import fit as fit_spec
    from ordito.fitting import this_machine, vocabulary_size

    for name, value, unit in (("--memory", memory, "GB"), ("--bandwidth", bandwidth, "GB/s")):
        if value is not None and not 0 < value < 1e9:
            raise OrditoError(f"{name}: got {value:g} {unit}, expected a number above 0 and below 1e9")
    outline = known(model)
    with working("measuring this machine"):
        machine = this_machine(memory=round(memory * 1e9) if memory else None, bandwidth=bandwidth * 1e9 if bandwidth else None)
    found = fit_spec(
        outline.spec,
        outline.stored,
        file_bytes=outline.file_bytes,
        vocabulary=vocabulary_size(outline),
        context=context,
        batch=batch,
        quant=quant,
        machine=machine,
    )
    if json:
        write_json({"name": outline.name, "origin": outline.origin, **found.to_dict()})
    else:
        report(outline.name, found)


def report(name: str, found: Fit) -> None:
    """Print the machine, and the tables of memory, speed and quantizations."""
    from ordito.fitting.report import tables

    machine = found.machine
    stored = "as stored" if found.chosen.name == "the file" else f"as {found.chosen.name}"
    write(f"{name}, {stored}, on {machine.cores} cores with {size(machine.memory)} free, {machine.speed}\n\n")
    for number, table in enumerate(tables(found)):
        write("\n" if number else "")
        write_table(table)
