"""`ordito train`: pretraining, fine-tuning and other objectives, resumable."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict, Unpack

import click

from ordito.cli.console import say, working, write
from ordito.errors import MissingDependencyError, OrditoError, OrditoWarning

if TYPE_CHECKING:
    from ordito.train.config import Config


class _Options(TypedDict):
    """The options that give settings of a run."""

    objective: str | None
    model: str | None
    data: tuple[str, ...]
    output: str | None
    max_time: float | None
    file: Path | None
    sets: tuple[str, ...]


@click.command()
@click.argument("objective", required=False, help="pretrain, sft, ...: ordito train --settings lists them.")
@click.option("--model", help="A name, org/name, a folder or a file; with scratch=true a config.json is enough.")
@click.option("--data", multiple=True, help="A file (.jsonl, .json, .parquet, .txt), a folder, or hf:DATASET. May be repeated.")
@click.option("--output", help="Folder of the run.")
@click.option("--max-time", type=float, metavar="MINUTES", help="Save and stop after this time; --resume goes on.")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="A YAML file of settings; options of the command line override it.",
)
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="One setting. May be repeated.")
@click.option("--resume", is_flag=True, help="Continue the run in OUTPUT, with the same results as without the interruption.")
@click.option("--plan", is_flag=True, help="Predict steps, memory and time, without training.")
@click.option("--inspect", is_flag=True, help="Show the first batches token by token, and problems in them.")
@click.option("--settings", "listed", is_flag=True, help="List all settings.")
def train(resume: bool, plan: bool, inspect: bool, listed: bool, **options: Unpack[_Options]) -> None:
    """Train MODEL on data: pretraining, chats, classification, distillation, embeddings; all weights or adapters.

    \b
    ordito train sft --model smollm2 --data chats.jsonl --output my-model
    ordito train sft --model smollm2 --data chats.jsonl --output my-lora --set adapter=lora --set lora.rank=8
    ordito train pretrain --model config.json --data books/ --output new --set scratch=true --set tokenizer=./tok
    ordito train --resume --output my-model
    torchrun --nproc-per-node 2 -m ordito train sft --model smollm2 --data chats.jsonl --output my-model
    ordito train sft --model smollm2 --data chats.jsonl --output my-model --plan
    """
    _need_torch()
    if listed:
        _list_settings(options["objective"])
        return
    from ordito.train.processes import everywhere, started

    try:
        config = _config(options, resume)
        if (plan or inspect) and started()[1] > 1:
            raise OrditoError("--plan and --inspect run in one process: start them without torchrun")
    except OrditoError as error:
        _fail(everywhere(error))
    if plan:
        from ordito.train.plan import planned

        with working("measuring a training step"):
            found = planned(config)
        write(found.text() + "\n")
    elif inspect:
        _inspect(config)
    else:
        _train(config, resume)


def _train(config: Config, resume: bool) -> None:
    from ordito.cli.training import Progress
    from ordito.train.processes import started
    from ordito.train.run import fit

    first = started()[0] == 0
    if first:
        say(config.to_yaml().rstrip())
    else:
        warnings.simplefilter("ignore", OrditoWarning)
    try:
        with Progress() as progress:
            result = fit(config, resume=resume, listener=progress)
    except OrditoError as error:
        _fail(error)
    if not first:
        return
    loss = f", loss {result.metrics['loss']:.4f}" if "loss" in result.metrics else ""
    if result.exported:
        early = f" ({result.stopped})" if result.stopped else ""
        say(f"done: {result.steps} steps{loss}{early}. The model is in {result.folder}")
    else:
        say(
            f"stopped at step {result.steps}{loss}: {result.stopped}. Go on with: "
            f"ordito train --resume --output {config.output}"
        )


def _fail(error: OrditoError) -> NoReturn:
    """Raise the error, or exit silently if another process of the run reports it."""
    from ordito.train.processes import said_elsewhere

    if said_elsewhere(error):
        time.sleep(10)  # torchrun stops all processes when one ends: the other must have time to report it
        raise SystemExit(1) from None
    raise error


def _config(options: _Options, resume: bool) -> Config:
    """The settings: those of the file or of the run to resume, overridden by the options."""
    from ordito.train.config import config_from, read_settings
    from ordito.train.run import RUN

    values: dict[str, Any] = {}
    output = options["output"]
    if options["file"] is not None:
        values = read_settings(options["file"])
    elif resume and output is not None and (before := Path(output) / RUN).is_file():
        values = read_settings(before)
    elif resume and options["objective"] is None:
        where = f"in {output}" if output else "because --output is missing"
        raise OrditoError(f"there is no run to resume {where}: start one with ordito train OBJECTIVE ...")
    named = {
        "objective": options["objective"],
        "model": options["model"],
        "data": list(options["data"]) or None,
        "output": output,
        "max_time": options["max_time"],
    }
    return config_from(values | {key: value for key, value in named.items() if value is not None}, options["sets"])


def _inspect(config: Config) -> None:
    import sys

    from ordito.cli.training import Messages
    from ordito.train.inspect import inspect
    from ordito.train.setup import set_up

    trainer, _ = set_up(config, Messages())
    batches = [batch for step in range(min(2, trainer.total)) for batch in trainer.batches(step)]
    found = inspect(batches, trainer.subject.tokenizer, config.length)
    write(found.text(colour=sys.stdout.isatty()) + "\n")
    for problem in found.problems:
        say(f"warning: {problem}")
    if not found.problems:
        say("nothing is wrong with these batches")


def _list_settings(objective: str | None) -> None:
    from ordito.accounting import Table
    from ordito.cli.console import write_table
    from ordito.train.config import Config, described
    from ordito.train.task import kind_named, kinds

    shown = [kind_named(objective)] if objective else list(kinds().values())
    write_table(Table("", ("objective", ""), tuple((kind.name, kind.summary) for kind in shown)))
    write("\n")
    rows = list(described(Config))
    for kind in shown:
        rows += described(kind.settings, f"{kind.name}.")
    write_table(Table("", ("setting", "default", ""), tuple(rows)))


def _need_torch() -> None:
    from ordito.engine.backends import is_installed

    if not (is_installed("torch") and is_installed("yaml")):
        raise MissingDependencyError("training needs PyTorch: pip install 'ordito[train]'")
