"""`ordito batch`: answers a file of requests into another file."""

from __future__ import annotations

from pathlib import Path

import click

from ordito.cli.console import find, say
from ordito.cli.parameters import backend_name
from ordito.errors import OrditoError


@click.command()
@click.argument("source", metavar="IN", type=click.Path(), help="Requests in the format of OpenAI's batches.")
@click.argument("out", metavar="OUT", type=click.Path(), help="File for the answers, one a line.")
@click.option("--model", help="The model for requests that name none.")
@click.option("--together", default=64, type=click.IntRange(1, 1024), help="Answers in one batch, at most.")
@backend_name
def batch(source: str, out: str, model: str | None, together: int, backend: str | None) -> None:
    """Answer the requests of IN into OUT.

    A batch that was interrupted continues when the command is called again: requests that have an answer in OUT are
    skipped, and failed ones are sent again.

    \b
    ordito batch requests.jsonl answers.jsonl --model smollm2
    """
    import asyncio

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ordito.serve.batch import answered, read_requests, run_batch
    from ordito.serve.settings import ServerSettings

    if Path(source).resolve() == Path(out).resolve():
        raise OrditoError(f"{out}: IN and OUT are the same file, expected two")
    requests = read_requests(Path(source))
    done = answered(Path(out))
    left = [request for request in requests if request["custom_id"] not in done]
    if len(left) < len(requests):
        say(f"{len(requests) - len(left)} of {len(requests)} are answered already")
    if model is not None:
        find(model)
    settings = ServerSettings(most_together=together, max_waiting=10**9, keep_alive=None, backend=backend, max_body=1 << 30)
    columns = (TextColumn("answering"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("answering", total=len(left))
        failed = asyncio.run(run_batch(left, Path(out), settings, model=model, done=lambda: progress.advance(task)))
    if failed:
        raise OrditoError(f"{failed} of {len(left)} requests failed: {out} says why")
