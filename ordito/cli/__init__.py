"""The command line: one thin module for each command, imported only when that command is called."""

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
    """The commands, each imported only when it is called, so that their number does not slow the start down."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every name, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """The command of a name. Raises `UsageError` for an unknown one."""
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
    """Run, inspect, train and manage open language models on your own machine.

    `ordito run` opens a chat with a small model, which is downloaded the first time.
    """


def program() -> None:
    """`main`, in a process of its own: tunes the garbage collector and numpy, and handles signals.

    A vocabulary is a hundred thousand objects that stay: to scan them for garbage, while it is read and once more at the end,
    takes a tenth of the time to the first token. numpy's own threads would spin on the cores that load the weights.
    """
    gc.set_threshold(100_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for number in ENDING:
        # A signal that is ignored from the start stays ignored: nohup does so with SIGHUP.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, end)
    try:
        main()
    finally:
        gc.freeze()


ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that ask a process to end, and by default end it without any cleanup."""


def end(number: int, frame: FrameType | None) -> None:
    """A handler that ends the program by an exception, so that partial files are removed; exit status 143 or 129.

    A server and a training run have handlers of their own for SIGTERM, which are called for SIGHUP, too.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and handler is not end:
        handler(number, frame)
        return
    for other in ENDING:  # a shell and its terminal both send a signal: the second must not interrupt the cleanup
        signal.signal(other, lambda *_: None)  # not SIG_IGN, with which Python reports a signal that is pending already
    sys.exit(128 + number)


def main() -> None:
    """Run the command line. An error is one line on standard error and exit status 1; wrong usage is status 2, Ctrl-C 130."""
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
        say(f"error: {message_of(error)}")
        sys.exit(1)


def message_of(error: Exception) -> str:
    """The message of an error for the user.

    >>> message_of(OSError(28, "No space left on device", "x.json"))
    'x.json: No space left on device'
    """
    match error:
        case OrditoError():
            return str(error)
        case OSError(strerror=str(reason), filename=name):
            return f"{name}: {reason}" if name else reason
        case MemoryError():
            return "there is not enough memory: use a smaller model, or a smaller quantization of it"
    return f"this is a bug in ordito ({type(error).__name__}: {error}); ORDITO_DEBUG=1 shows where it happened"
