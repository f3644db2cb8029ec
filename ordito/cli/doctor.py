"""`ordito doctor`: the kernels, threads, memory and speed of this machine, and what slows models down on it."""

from __future__ import annotations

import click

from ordito.checkpoint.store import DEFAULT_MODEL
from ordito.cli.console import known, working, write, write_json
from ordito.cli.parameters import json_output
from ordito.units import size


@click.command()
@click.argument("model", required=False, metavar="[MODEL]", help=f"Also predict the speed of a model, e.g. {DEFAULT_MODEL}.")
@json_output
def doctor(model: str | None, json: bool) -> None:
    """Show kernels, threads, memory and speed of this machine, and what slows models down on it.

    \b
    ordito doctor
    ordito doctor gemma3-270m
    """
    from ordito import _core
    from ordito.fitting import fit, this_machine, vocabulary_size
    from ordito.fitting.health import bound_processors, complaints, watch
    from ordito.threads import usable_threads

    outline = known(model) if model is not None else None
    with working("looking at this machine"):
        before, after = watch()
        machine = this_machine()
    available, threads, bound = _core.available_kernels(), usable_threads(), bound_processors()
    found = complaints(before, after, kernels=available[0], threads=threads, bound=bound, free=machine.memory)
    report = {
        "kernels": available[0],
        "available": available,
        "threads": threads,
        "machine": machine.to_dict(),
        "complaints": found,
    }
    if outline is not None:
        vocabulary = vocabulary_size(outline)
        predicted = fit(outline.spec, outline.stored, file_bytes=outline.file_bytes, vocabulary=vocabulary, machine=machine)
        report["model"] = outline.name
        report["fits"] = predicted.fits
        report["prefill"] = predicted.prefill.predicted
        report["decode"] = predicted.decode.predicted if predicted.decode else None
        report["context"] = predicted.context
    if json:
        write_json(report)
        return
    write(f"kernels      {available[0]} (of {', '.join(available)})\n")
    write(f"threads      {threads} on {bound} processors\n")
    write(f"memory       {size(machine.memory)} free\n")
    write(f"speed        {machine.speed}\n")
    if outline is not None:
        rates = f"prefill at {report['prefill']:,.1f} tokens/s"
        rates += f", decoding at {report['decode']:,.1f} after {report['context']:,} tokens" if report["decode"] else ""
        write(f"{outline.name:<12} {rates if report['fits'] else 'does not fit into memory'}\n")
    write("".join(f"\n{number}. {line}\n" for number, line in enumerate(found, 1)) if found else "\nNothing is wrong.\n")
