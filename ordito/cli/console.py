"""Input and output of the commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ordito.errors import OrditoError, OrditoWarning

if TYPE_CHECKING:
    from ordito.accounting import Table
    from ordito.checkpoint.outline import Outline
    from ordito.checkpoint.store import LocalModel
    from ordito.model import Model
    from ordito.text.answers import Part

# Text of models and their files must not control the terminal: control characters other than tab and newline are replaced.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def open_closed_streams() -> None:
    """Give a stream that was closed (`2>&-`) the null device: otherwise the next file that is opened gets its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for as long as the process


def say(message: str) -> None:
    """Print a message on standard error, without control characters."""
    print(_CONTROL.sub("�", message), file=sys.stderr, flush=True)


def show_warning(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
    """Print an `OrditoWarning` as one line; warnings of libraries are not shown."""
    if issubclass(category, OrditoWarning):
        say(f"warning: {message}")


def write(text: str) -> None:
    """Write to standard output; on a terminal, without control characters."""
    sys.stdout.write(_CONTROL.sub("�", text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def styled(stream: TextIO) -> bool:
    """Whether text on this stream may be bright or dim: on a terminal that is not dumb, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def write_answer(parts: Iterable[Part], *, said: bool = True) -> None:
    """Write an answer as it comes: its text on standard output (if `said`), its thoughts dimmed on standard error if that is a
    terminal."""
    from ordito.text.answers import Call, Said, Thought

    thinking = False
    shown = sys.stderr.isatty()
    dim, plain = ("\x1b[2m", "\x1b[0m") if styled(sys.stderr) else ("", "")
    try:
        for part in parts:
            if isinstance(part, Thought) != thinking and shown and not isinstance(part, Call):
                thinking = not thinking
                sys.stderr.write(dim if thinking else f"{plain}\n\n")
                sys.stderr.flush()
            if isinstance(part, Said) and said:
                write(part.text)
            elif isinstance(part, Thought) and shown:
                sys.stderr.write(_CONTROL.sub("�", part.text))
                sys.stderr.flush()
    finally:  # also after Ctrl-C in a thought: what follows is not one
        if thinking:
            sys.stderr.write(f"{plain}\n")


def write_json(data: Any, indent: int | None = 2) -> None:
    """Write JSON to standard output."""
    write(json.dumps(data, indent=indent, ensure_ascii=False) + "\n")


_STANDARD_INPUT = Path("-")


def piped() -> str | None:
    """All of standard input, or None if it is a terminal. Raises `OrditoError` if it is not UTF-8."""
    return None if sys.stdin.isatty() else text_of(_STANDARD_INPUT)


def text_of(path: Path) -> str:
    """The text of a file, or of standard input for `-`. Raises `OrditoError` if it is not UTF-8."""
    name = "standard input" if path == _STANDARD_INPUT else path
    data = sys.stdin.buffer.read() if path == _STANDARD_INPUT else path.read_bytes()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OrditoError(f"{name} is not UTF-8 at byte {error.start}, expected text: convert it to UTF-8") from None


def refuse_not_finite(name: str, what: str, numbers: Iterable[float]) -> None:
    """Raise `OrditoError` if a number is NaN or infinite, which means that the model is damaged."""
    if not all(map(math.isfinite, numbers)):
        raise OrditoError(f"{name} gives NaN or infinity ({what} not finite): its weights are damaged, get another copy of it")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show a spinner with this text on standard error during the block, if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


def find(name: str) -> LocalModel:
    """The model of a name, downloaded if necessary; prints the notice of its licence after a download."""
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
    """Load the model of a name, with an adapter if one is named; returns it with the place where it was found."""
    local = find(name)
    found = find(adapter).path if adapter is not None else None
    with working(f"loading {local.name}"):
        from ordito.loading import load as load_model

        model = load_model(
            local.path, adapter=found, prompt_format=prompt_format, backend=backend, dtype=dtype, quantize=quantize
        )
    return model, local


def known(name: str, *, download: bool = False) -> Outline:
    """The outline of a model from its headers or its configuration; `download`: a shipped model is downloaded."""
    from ordito.checkpoint import store
    from ordito.checkpoint.outline import outline

    with working(f"reading the headers of {name}"):
        return outline(name, progress=store.RichProgress(), download=download)


def write_table(table: Table, *, stands_out: bool = False) -> None:
    """Print a table as aligned text. With `stands_out`, a terminal shows rows with a first cell bright and the others dim."""
    colours = stands_out and styled(sys.stdout)
    for number, line in enumerate(table.lines()):
        line = _CONTROL.sub("�", line)
        if colours:
            marked = number == 0 or table.rows[number - 1][0]
            line = f"\x1b[{1 if marked else 2}m{line}\x1b[0m"
        sys.stdout.write(line + "\n")
    sys.stdout.flush()
