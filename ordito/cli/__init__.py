"""The command line: one file a command, each thin. Only the command that is called is imported."""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from importlib import import_module
from types import FrameType

import click

from ordito import __version__
from ordito.cli.console import open_closed_streams, say, show_warning
from ordito.errors import OrditoError, did_you_mean

COMMANDS = {
    name: module
    for module, names in {
        "run": "run",
        "serve": "serve ps stop",
        "batch": "batch",
        "train": "train",
        "tokenizer": "tokenizer",
        "embed": "embed",
        "explain": "explain",
        "compare": "compare",
        "draw": "draw",
        "fit": "fit",
        "bench": "bench",
        "perplexity": "perplexity",
        "doctor": "doctor",
        "catalogue": "catalogue",
        "show": "show",
        "convert": "convert",
        "export": "export",
        "upcycle": "upcycle",
        "quantize": "quantize",
        "imatrix": "imatrix",
        "models": "pull ls rm",
    }.items()
    for name in names.split()
}
"""Command -> the module of this package that holds it."""


class Commands(click.Group):
    """The commands, each imported when it is named, so that starting takes no longer for there being many."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of a name. Raises `UsageError` for one that there is not."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(f"No such command {cmd_name!r}{did_you_mean(cmd_name, COMMANDS)}", ctx)
        command: click.Command = getattr(import_module(f"{__name__}.{COMMANDS[cmd_name]}"), cmd_name)
        return command


@click.command(
    cls=Commands,
    name="ordito",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.version_option(__version__, message="%(prog)s %(version)s", help="Print the version and stop.")
def app() -> None:
    """Run, look into and keep open language models, on the machine that you have.

    `ordito run` opens a chat with a small model, which is downloaded the first time.
    """


def program() -> None:
    """`main`, in a process that is there for nothing else.

    A vocabulary is a hundred thousand objects that stay: to look through them for garbage, while it is read and once more at
    the end, is a tenth of the way to the first token. numpy's own threads would spin on the cores that load the weights.
    """
    gc.set_threshold(100_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in ENDING:
        # What is ignored from the start stays so: that is how nohup keeps a command from its terminal's end.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        main()
    finally:
        gc.freeze()


ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end, and would end it where it stands."""


def end(number: int, frame: FrameType | None) -> None:
    """A signal ends the program as an error would, so that what was half done is cleaned up: status 143 or 129.

    A server and a training run stop at SIGTERM in an order of their own; they do so too when their terminal is closed.
    """
    theirs = signal.getsignal(signal.SIGTERM)
    if callable(theirs) and theirs is not end:
        theirs(number, frame)
        return
    for other in ENDING:  # a shell and its terminal both send one, and cleaning up must not be cut short
        signal.signal(other, lambda *_: None)  # with SIG_IGN, Python complains of one that waits already
    sys.exit(128 + number)


def main() -> None:
    """The program. A user's mistake is one line on standard error and exit status 1; wrong usage
    is status 2, and Ctrl-C 130."""
    open_closed_streams()
    warnings.showwarning = show_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        sys.exit(app.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except Exception as error:
        if os.environ.get("ORDITO_DEBUG"):
            raise
        say(f"error: {told(error)}")
        sys.exit(1)


def told(error: Exception) -> str:
    """What a user is told of an error.

    >>> told(OSError(28, "No space left on device", "x.json"))
    'x.json: No space left on device'
    """
    match error:
        case OrditoError():
            return str(error)
        case OSError(strerror=str(reason), filename=name):
            return f"{name}: {reason}" if name else reason
        case MemoryError():
            return "there is not enough memory: take a smaller model, or a smaller quantization of it"
    return f"this is a bug in ordito ({type(error).__name__}: {error}); ORDITO_DEBUG=1 shows where it happened"
