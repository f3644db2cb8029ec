"""`ordito bench`: how fast a model runs here."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from ordito.cli.console import find, say, working, write, write_json
from ordito.cli.parameters import arithmetic, backend_name, default_model
from ordito.errors import OrditoError
from ordito.units import short, size

if TYPE_CHECKING:
    from ordito.fitting import Machine
    from ordito.fitting.bench import Figure

SEVERAL = "separated by commas, or repeat the option"
FORMS = ("markdown", "md", "json", "jsonl", "csv")


@click.command()
@default_model()
@click.option("--prompt", "-p", "prompts", multiple=True, default=["512"], help=f"Lengths of prompts, {SEVERAL}; 0 for none.")
@click.option(
    "--generate", "-n", "generated", multiple=True, default=["128"], help=f"Lengths of answers, {SEVERAL}; 0 for none."
)
@click.option("--depth", "-d", "depths", multiple=True, default=["0"], help=f"Tokens in the KV cache before, {SEVERAL}.")
@click.option("--repetitions", "-r", default=5, type=click.IntRange(min=1), help="How often each is measured.")
@click.option("--threads", "-t", type=click.IntRange(1, 1024), help="Threads. [default: the usable cores]")
@backend_name
@arithmetic
@click.option("--output", "-o", "form", help="markdown (or md), json, jsonl or csv. [default: markdown]")
@click.option("--json", is_flag=True, help="Short for --output json.")
def bench(
    model: str,
    prompts: tuple[str, ...],
    generated: tuple[str, ...],
    depths: tuple[str, ...],
    repetitions: int,
    threads: int | None,
    backend: str | None,
    dtype: str | None,
    form: str | None,
    json: bool,
) -> None:
    """Measure the tokens a second of MODEL in prefill (pp) and decoding (tg), beside the limit of this machine.

    \b
    ordito bench smollm2
    ordito bench gemma3-270m -p 512,2048 -n 128 -d 0,1024,4096 --json
    """
    if json and form not in (None, "json"):
        raise OrditoError(f"--json and --output {form} contradict each other: drop one of them")
    form = "json" if json else form or "markdown"
    if form not in FORMS:
        raise OrditoError(f"--output: got {form!r}, expected one of {', '.join(FORMS)}")
    lengths = [numbers(texts, name) for texts, name in ((prompts, "-p"), (generated, "-n"), (depths, "-d"))]
    if not any(lengths[0] + lengths[1]):
        raise OrditoError("there is nothing to measure: give -p or -n a length above 0")
    from ordito.accounting import account
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.checkpoint.outline import held
    from ordito.engine.backends import default_backend, load_runtime
    from ordito.fitting import this_machine
    from ordito.fitting.bench import bench as measure
    from ordito.fitting.machine import measured_bandwidth
    from ordito.threads import usable_threads

    local = find(model)
    checkpoint = open_checkpoint(local.path)
    longest = max(lengths[0] + lengths[1]) + max(lengths[2])
    if longest > checkpoint.spec.context:
        raise OrditoError(f"got {longest} tokens in all, expected at most {checkpoint.spec.context}, the model's context")
    if checkpoint.spec.encoder is not None:
        raise OrditoError(f"this {checkpoint.spec.architecture} model is an encoder-decoder, which bench does not measure")
    if not checkpoint.spec.generates:
        if not any(lengths[0]):
            raise OrditoError(f"{local.name} cannot generate text: give -p a length above 0")
        given = click.get_current_context().get_parameter_source
        for option, name, asked in (("-n", "generated", lengths[1]), ("-d", "depths", lengths[2])):
            if any(asked) and given(name) is ParameterSource.COMMANDLINE:
                say(f"warning: {local.name} cannot generate text: {option} is ignored")
    found = account(checkpoint.spec, held(checkpoint))
    with working("measuring this machine, loading the model"):
        bandwidth = measured_bandwidth(threads or usable_threads())  # first: it takes memory of its own
        runtime = load_runtime(checkpoint, backend, dtype, threads=threads)
        machine = this_machine(bandwidth=bandwidth, threads=threads)
    with working("measuring"):
        figures = list(
            measure(
                runtime,
                found,
                machine,
                prompts=[n for n in lengths[0] if n],
                generated=[n for n in lengths[1] if n],
                depths=lengths[2],
                repetitions=repetitions,
                backend_name=backend or default_backend(),
                dtype=dtype,
            )
        )
    head = {
        "model": local.name,
        "size": checkpoint.nbytes,
        "parameters": found.parameters.total,
        "backend": backend or default_backend(),
        "threads": threads or machine.cores,
    }
    write_figures(form, head, machine, figures)


def write_figures(form: str, head: dict[str, object], machine: Machine, figures: list[Figure]) -> None:
    """Print the figures of one model in one of `FORMS`; `head` is what they all share."""
    if form == "json":
        write_json(head | {"machine": machine.to_dict(), "figures": [figure.to_dict() for figure in figures]})
    elif form == "jsonl":
        for figure in figures:
            write_json(head | figure.to_dict(), indent=None)
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow([*head, *figures[0].to_dict()] if figures else head)
        writer.writerows([*head.values(), *figure.to_dict().values()] for figure in figures)
    else:
        write(f"{markdown(head, figures)}\n\n")
        write(f"This machine: {machine.speed}.\n")


def markdown(head: dict[str, object], figures: list[Figure]) -> str:
    """A Markdown table with the columns of llama-bench, and the machine's limits."""
    columns = ["model", "size", "params", "backend", "threads", "test", "t/s", "bytes/token", "limit t/s", "of limit"]
    start = [
        head["model"],
        size(float(str(head["size"]))),
        short(float(str(head["parameters"]))),
        head["backend"],
        head["threads"],
    ]
    rows = [
        [
            *map(str, start),
            figure.test,
            f"{figure.mean:.2f} ± {figure.deviation:.2f}",
            size(figure.bytes_per_token),
            f"{figure.limit:.1f}",
            f"{100 * figure.reached:.0f} %",
        ]
        for figure in figures
    ]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    left = 6
    lines = [
        "| "
        + " | ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in [columns, *rows]
    ]
    rule = "| " + " | ".join("-" * (w - 1) + ("-" if i < left else ":") for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def numbers(texts: tuple[str, ...], option: str) -> list[int]:
    """The whole numbers of an option, separated by commas or given one by one. Raises `OrditoError` for anything else."""
    text = ",".join(texts)
    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and len(part.strip()) < 10 for part in parts):
        raise OrditoError(f"{option}: got {text!r}, expected whole numbers up to 999,999,999, separated by commas")
    return [int(part) for part in parts]
