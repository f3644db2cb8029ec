"""`ordito catalogue`: the published models and their sizes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from ordito.cli.console import write, write_json, write_table
from ordito.units import plural, short, size

if TYPE_CHECKING:
    from ordito.comparing.published import Row


@click.command()
@click.argument("name", required=False, metavar="[TEXT]", help="Only models whose name contains this.")
@click.option("--family", "-f", help="Only one family: gemma, llama, qwen, ...")
@click.option("--sort", "-s", help="name, released, context, total, active, kv or layers.")
@click.option("--since", help="Released since a year or a month: 2024, 2024-07.")
@click.option("--kind", default="all", help="open, closed or all.")
@click.option("--json", is_flag=True, help="Print a JSON list.")
def catalogue(name: str | None, family: str | None, sort: str | None, since: str | None, kind: str, json: bool) -> None:
    """List published models with their exact sizes, computed from their configurations; of closed models, what is public.

    \b
    ordito catalogue --family gemma
    ordito catalogue --since 2024 --sort active --kind open
    """
    from ordito.comparing.published import ordered, rows
    from ordito.errors import OrditoError

    if kind not in ("open", "closed", "all"):
        raise OrditoError(f"--kind: got {kind!r}, expected open, closed or all")
    if since is not None and not re.fullmatch(r"\d{4}(-(0[1-9]|1[0-2]))?", since, re.ASCII):
        raise OrditoError(f"--since: got {since!r}, expected a year or a month, such as 2024 or 2024-07")
    found = rows(family=family, closed=None if kind == "all" else kind == "closed", since=since, name=name)
    if sort is not None:
        found = ordered(found, sort)
    if json:
        write_json([row.to_dict() for row in found])
    elif not found:
        raise OrditoError("no model of the catalogue matches all of these filters: drop one")
    else:
        table(found)


def table(found: list[Row]) -> None:
    """Print the rows as a table."""
    from ordito.accounting import Table

    columns = ("", "released", ">layers", ">d_model", "attention", "experts", ">context", ">total", ">active", ">cache/token")
    write_table(Table("", columns, tuple(cells(row) for row in found)))
    write(
        f"\n{plural(len(found), 'model')}. Cache at 16 bits; ~: some layers have a sliding window; more: ordito explain NAME\n"
    )


def cells(row: Row) -> tuple[str, ...]:
    """The cells of one model."""
    entry, shape = row.entry, row.shape
    context = f"{entry.context:,}" if entry.context else "?"
    if shape is None:
        return (entry.name, entry.released, "", "", "closed; input: " + ", ".join(entry.modalities), "", context, "", "", "")
    return (
        entry.name,
        entry.released,
        str(shape.layers),
        str(shape.d_model),
        shape.attention + (" ~" if shape.windows else ""),
        shape.experts,
        context,
        short(shape.total),
        short(shape.active) if shape.active != shape.total else "",
        size(shape.kv_bytes_per_token) if shape.kv_bytes_per_token else "",
    )
