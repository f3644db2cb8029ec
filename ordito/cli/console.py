"""What commands print and where: answers on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordito.errors import OrditoError, OrditoWarning

if TYPE_CHECKING:
    from ordito.accounting import Table
    from ordito.checkpoint.outline import Outline
    from ordito.checkpoint.store import LocalModel
    from ordito.model import Model
    from ordito.text.answers import Part

# What models and their files say must not drive the terminal: control characters but tabs and newlines are replaced.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def open_closed_streams() -> None:
    """Give a stream that was closed (`2>&-`) the null device: otherwise the next file that is opened gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def say(message: str) -> None:
    """One message on standard error, with nothing in it that drives a terminal."""
    print(_CONTROL.sub("�", message), file=sys.stderr, flush=True)


def show_warning(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    """Our warnings as one line each; those of libraries are their own affair and are not shown."""
    if issubclass(category, OrditoWarning):
        say(f"warning: {message}")


def write(text: str) -> None:
    """A piece of an answer on standard output; on a terminal, without control characters."""
    sys.stdout.write(_CONTROL.sub("�", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_answer(parts: Iterable[Part], *, said: bool = True) -> None:
    """An answer as it comes: what is `said` on standard output; what is thought, dim, where someone sits at a terminal."""
    from ordito.text.answers import Call, Said, Thought

    thinking = False
    colours = sys.stderr.isatty()
    for part in parts:
        if isinstance(part, Thought) != thinking and colours and not isinstance(part, Call):
            thinking = not thinking
            sys.stderr.write("\x1b[2m" if thinking else "\x1b[0m\n\n")
            sys.stderr.flush()
        if isinstance(part, Said) and said:
            write(part.text)
        elif isinstance(part, Thought) and colours:
            sys.stderr.write(_CONTROL.sub("�", part.text))
            sys.stderr.flush()
    if thinking:
        sys.stderr.write("\x1b[0m\n")


def write_json(data: Any, indent: int | None = 2) -> None:
    """JSON on standard output."""
    write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")


_STANDARD_INPUT = Path("-")


def piped() -> str | None:
    """All of standard input, or None where a person sits at it. Raises `OrditoError` if it is not UTF-8."""
    return None if sys.stdin.isatty() else text_of(_STANDARD_INPUT)


def text_of(path: Path) -> str:
    """What stands in a file of text, or on standard input for `-`. Raises `OrditoError` if it is not UTF-8."""
    name = "standard input" if path == _STANDARD_INPUT else path
    data = sys.stdin.buffer.read() if path == _STANDARD_INPUT else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OrditoError(f"{name} is not UTF-8 at byte {error.start}, expected text: convert it to UTF-8") from None


def refuse_no_numbers(name: str, what: str, numbers: Iterable[float]) -> None:
    """What a damaged model gives is no result. Raises `OrditoError` if a number is none or infinite."""
    if not all(map(math.isfinite, numbers)):
        raise OrditoError(f"{name} gives no numbers ({what} not finite): its weights are damaged, take another copy of it")


@contextmanager
def working(what: str) -> Iterator[None]:
    """A sign on a terminal's standard error that something is going on."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


def find(name: str) -> LocalModel:
    """The model of a name, downloaded if need be, with its licence's notice when it has just arrived."""
    from ordito.checkpoint import store

    local = store.locate(name, progress=store.RichProgress())
    if local.fetched and local.licence_notice:
        say(local.licence_notice)
    return local


def load(
    name: str,
    backend: str | None = None,
    adapter: str | None = None,
    prompt_format: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
) -> tuple[Model, LocalModel]:
    """The model of a name, loaded, with an adapter if one is named; and where it was found."""
    local = find(name)
    found = find(adapter).path if adapter is not None else None
    with working(f"loading {local.name}"):
        from ordito.model import load as load_model

        model = load_model(
            local.path, adapter=found, prompt_format=prompt_format, backend=backend, dtype=dtype, quantize=quantize
        )
    return model, local


def known(name: str) -> Outline:
    """What is known of a model from its headers or its configuration, with nothing downloaded but those."""
    from ordito.checkpoint import store
    from ordito.checkpoint.outline import outline

    with working(f"reading the headers of {name}"):
        return outline(name, progress=store.RichProgress())


def write_table(table: Table, *, stands_out: bool = False) -> None:
    """A table as aligned text. With `stands_out`, a terminal shows the rows that have a first cell bright, others dim."""
    colours = stands_out and sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for number, line in enumerate(table.lines()):
        line = _CONTROL.sub("�", line)
        if colours:
            marked = number == 0 or table.rows[number - 1][0]
            line = f"\x1b[{1 if marked else 2}m{line}\x1b[0m"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
