"""`ordito pull`, `ordito ls`, `ordito rm`: the models on this machine."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ordito.checkpoint.store import DEFAULT_MODEL
from ordito.cli.console import say, write, write_json
from ordito.cli.parameters import default_model, json_output
from ordito.errors import OrditoError
from ordito.units import size

if TYPE_CHECKING:
    from ordito.checkpoint.store import LocalModel


@click.command()
@default_model("A name, or org/name[:quant][@revision].")
@click.option("--force", is_flag=True, help="Download and verify again, even if it exists.")
@json_output
def pull(model: str, force: bool, json: bool) -> None:
    """Download MODEL and verify it.

    An interrupted download continues, or starts again, when the command is called again.

    \b
    ordito pull gemma3-270m
    ordito pull org/name:Q4_K_M
    """
    from ordito.checkpoint import store

    local = store.pull(model, progress=store.RichProgress(), force=force)
    if local.licence_notice:
        say(local.licence_notice)
    if json:
        write_json(as_json(local))
    else:
        write(f"{local.name}  {size(local.size)}  {local.path}\n")


@click.command()
@click.option("--json", is_flag=True, help="Print a JSON list.")
def ls(json: bool) -> None:
    """List the models on this machine: those that were pulled by name, and those in the Hugging Face cache."""
    from ordito.checkpoint import store

    models = sorted(store.installed(), key=lambda local: local.name)
    if json:
        write_json([as_json(local) for local in models])
    elif not models:
        say(f"there are no models yet: `ordito pull {DEFAULT_MODEL}` downloads the default one")
    else:
        width = max(len(local.name) for local in models)
        for local in models:
            write(f"{local.name:{width}}  {size(local.size):>9}  {local.source:7}  {local.path}\n")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", help="Names, as `ordito ls` shows them.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
def rm(models: tuple[str, ...], yes: bool) -> None:
    """Delete downloaded models. Models that are named by a path are never deleted."""
    from ordito.checkpoint import store

    for model in models:
        if not yes and _exists(model) and not _confirmed(model):
            say(f"{model} is not deleted")
            continue
        freed = store.remove(model)
        write(f"{model} is deleted: {size(freed)} freed\n")


def _exists(name: str) -> bool:
    """Whether there are files to delete, even if only part of a model. Raises `ModelNotFoundError` for an unknown name."""
    from ordito.checkpoint.store import MODELS, cached, packages, parse

    ref = parse(name)
    if ref.source == "package":
        return packages.present(MODELS[ref.name])
    return ref.source == "hub" and cached.find(ref, with_tokenizer=False) is not None


def _confirmed(model: str) -> bool:
    """Whether the answer on standard input is yes. Raises `OrditoError` if it is at its end."""
    say(f"delete {model}? [y/N]")
    answer = sys.stdin.buffer.readline()
    if not answer:
        raise OrditoError(f"{model} is not deleted: there was no answer on standard input; -y deletes without asking")
    return answer.strip().lower() in (b"y", b"yes")


def as_json(local: LocalModel) -> dict[str, Any]:
    """A model as JSON values."""
    return asdict(local) | {"path": str(local.path)}
