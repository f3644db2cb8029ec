"""`ordito explain`: what a model is and what it costs, exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ordito.cli.console import known, working, write, write_json, write_table
from ordito.cli.parameters import default_model, json_output
from ordito.errors import OrditoError

if TYPE_CHECKING:
    from ordito.accounting import Account
    from ordito.checkpoint.outline import Outline


@click.command()
@default_model("A name, a config.json, a GGUF file, a folder, or org/name on the hub.")
@click.option("--kv", is_flag=True, help="The KV cache layer by layer, and its size with other kinds of attention.")
@click.option("--trace", metavar="TEXT", help="Follow the last token of TEXT, step by step.")
@click.option("--layer", type=click.IntRange(min=0), help="Which layer --trace shows in full. [default: the first]")
@json_output
def explain(model: str, kv: bool, trace: str | None, layer: int | None, json: bool) -> None:
    """Show what MODEL is made of and what it costs: parameters, bytes, FLOPs, KV cache. Weights are not read.

    Of a model on the hub only the headers are fetched; shipped models and those of the catalogue need no file at all. A trace
    shows formulas and shapes, and the numbers of a run if the model is on this machine; a shipped one is fetched for it.

    \b
    ordito explain smollm2
    ordito explain deepseek-v3 --kv
    ordito explain smollm2 --trace "The capital of Italy is"
    ordito explain ./my-model/config.json --json
    """
    from ordito.accounting import account

    if trace is None and layer is not None:
        raise OrditoError("--layer chooses a layer of a trace: give --trace TEXT, too")
    if trace is not None and kv:
        raise OrditoError("--kv and --trace exclude each other: give one of them")
    outline = known(model, download=trace is not None)
    if trace is not None:
        print_trace(outline, trace, layer, json)
        return
    found = account(outline.spec, outline.stored)
    if json:
        write_json(as_json(outline, found))
    elif kv:
        kv_report(outline, found)
    else:
        report(outline, found)


def as_json(outline: Outline, found: Account) -> dict[str, Any]:
    """The whole account, as JSON values with stable keys."""
    file = {"bytes": outline.file_bytes, "other_tensors": outline.other_bytes, "overhead": outline.overhead}
    return {
        "name": outline.name,
        "origin": outline.origin,
        "format": outline.format,
        **found.to_dict(),
        "file": file if outline.file_bytes is not None else None,
    }


def report(outline: Outline, found: Account) -> None:
    """Print the whole account."""
    from ordito.accounting.report import report as tables
    from ordito.drawing import draw
    from ordito.families import family_of

    family = f"{family_of(outline.spec).title} ({outline.spec.architecture})"
    write(f"{draw(outline.spec, titles=[f'{outline.name}: {family}']).text()}\n\n{source(outline)}\n")
    for table in tables(found):
        write("\n")
        write_table(table)
    if outline.file_bytes is not None:
        write(f"\n{file_sum(outline, found)}\n")


def title(outline: Outline, found: Account) -> str:
    """Two lines: name, family, parameters and context; and where they are known from."""
    from ordito.families import family_of
    from ordito.units import short

    counted = found.parameters
    active = f", {short(counted.active)} active for a token" if counted.active != counted.total else ""
    family = f"{family_of(outline.spec).title} ({outline.spec.architecture})"
    return (
        f"{outline.name}: {family}, {short(counted.total)} parameters{active}, context {outline.spec.context:,}\n"
        f"{source(outline)}"
    )


def source(outline: Outline) -> str:
    """Where a model is known from, and what the catalogue notes of it."""
    return f"from {outline.origin}" + (f": {outline.note}" if outline.note else "")


def file_sum(outline: Outline, found: Account) -> str:
    """The size of the file as a sum: the model's tensors, tensors that it does not use, headers and padding."""
    parts = [f"{found.nbytes:,} bytes of the model's tensors"]
    parts += [f"{outline.other_bytes:,} of tensors that it does not use"] if outline.other_bytes else []
    parts += [f"{outline.overhead:,} of headers and padding"]
    return f"{' + '.join(parts)} = {outline.file_bytes:,}, the size of the file."


def kv_report(outline: Outline, found: Account) -> None:
    """Print the KV cache layer by layer, and its variants."""
    from ordito.accounting.report import cache_layers, cache_variants, outgrown

    write(f"{title(outline, found)}\n\n")
    if not found.kv_cache.layers:
        write("It has no KV cache, because it does not generate text.\n")
        return
    write_table(cache_layers(found))
    write("\n")
    write_table(cache_variants(found))
    write(f"\n{outgrown(found)}\n")


def print_trace(outline: Outline, text: str, layer: int | None, json: bool) -> None:
    """Print the trace of a text; of a model that is not on this machine, only formulas and shapes."""
    from ordito.lens import trace
    from ordito.lens.page import lines

    if outline.path is None or outline.stored is None:
        found = trace(outline.spec, name=outline.name)
    else:
        from ordito.loading import load

        with working(f"loading {outline.name}"):
            found = trace(load(outline.path, backend="torch"), text, name=outline.name)
    page = lines(found, layer)  # before JSON is written, too: raises for a layer that does not exist
    if json:
        write_json({"name": outline.name, "origin": outline.origin, **found.to_dict()})
    else:
        write("\n".join(page) + "\n")
