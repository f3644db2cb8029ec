"""`ordito compare`: models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ordito.cli.console import known, say, working, write, write_json, write_table
from ordito.cli.parameters import json_output

if TYPE_CHECKING:
    from ordito.checkpoint.changes import Change
    from ordito.checkpoint.outline import Outline


@click.command()
@click.argument(
    "models", nargs=-1, required=True, metavar="MODEL MODEL...", help="Names, config.json files, GGUF files or folders."
)
@click.option("--differences", "-d", "only_differences", is_flag=True, help="Show only the properties that differ.")
@click.option("--weights/--no-weights", default=True, help="Compare the weights of two models of the same shape.")
@json_output
def compare(models: tuple[str, ...], only_differences: bool, weights: bool, json: bool) -> None:
    """Compare architectures side by side, with differences marked, and the weights of two models of the same shape.

    \b
    ordito compare llama-2-7b llama-3-8b llama-3.1-8b
    ordito compare gemma-2-2b gemma-3-1b --differences
    ordito compare ./before ./after
    """
    from ordito.comparing import compare as compare_specs

    outlines = [known(model) for model in models]
    if weights and len(models) == 2 and same_shape(outlines):
        outlines = [known(name, download=True) if one.recorded else one for name, one in zip(models, outlines, strict=True)]
    comparison = compare_specs(*(one.spec for one in outlines), names=tuple(one.name for one in outlines))
    found = changed(outlines) if weights else []
    if weights and len(outlines) > 2 and same_shape(outlines):
        say("weights are compared for two models at a time, so not here")
    if json:
        write_json(comparison.to_dict() | ({"weights": as_json(found)} if found else {}))
        return
    write_table(comparison.table(only_differences=only_differences), stands_out=True)
    same = len(comparison.rows) - len(comparison.differences)
    write(f"\n{len(comparison.differences)} of {len(comparison.rows)} properties differ, {same} are the same.\n")
    if found:
        from ordito.checkpoint.changes import by_layer

        write("\n")
        write_table(by_layer(found))


def changed(outlines: list[Outline]) -> list[Change]:
    """The changes from one model's weights to the other's; empty unless there are two models of the same shape with weights."""
    from ordito.checkpoint.changes import changes, comparable
    from ordito.checkpoint.checkpoint import open_checkpoint

    if len(outlines) != 2 or any(one.stored is None or one.path is None for one in outlines):
        return []
    old, new = (open_checkpoint(one.path) for one in outlines if one.path is not None)
    if not comparable(old, new):
        return []
    with working("comparing weights"):
        return list(changes(old, new))


def same_shape(outlines: list[Outline]) -> bool:
    """Whether all are models with weights, in the same shapes."""
    stored = all(one.stored is not None for one in outlines)
    return stored and all(one.spec.tensors() == outlines[0].spec.tensors() for one in outlines)


def as_json(found: list[Change]) -> dict[str, Any]:
    """The changes as JSON values."""
    from ordito.checkpoint.changes import to_dict

    return to_dict(found)
