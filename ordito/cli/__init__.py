"""The command line: one file a command, each thin. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from ordito import __version__
from ordito.cli.bench import bench
from ordito.cli.catalogue import catalogue
from ordito.cli.compare import compare
from ordito.cli.console import say, show_warning
from ordito.cli.convert import convert
from ordito.cli.doctor import doctor
from ordito.cli.draw import draw
from ordito.cli.embed import embed
from ordito.cli.explain import explain
from ordito.cli.fit import fit
from ordito.cli.imatrix import imatrix
from ordito.cli.models import ls, pull, rm
from ordito.cli.perplexity import perplexity
from ordito.cli.quantize import quantize
from ordito.cli.run import run
from ordito.cli.show import show
from ordito.errors import OrditoError

app = typer.Typer(
    name="ordito",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_SEE = (explain, compare, draw, fit, bench, perplexity, doctor, catalogue, show)
_KEEP = (convert, quantize, imatrix, pull, ls, rm)
for command in (run, embed, *_SEE, *_KEEP):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ordito {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and stop."),
) -> None:
    """Run, look into and keep open language models, on the machine that you have.

    `ordito run` opens a chat with a small model, which is downloaded the first time.
    """


def main() -> None:
    """The program. A user's mistake is one line on standard error and exit status 1; wrong usage is status 2."""
    warnings.showwarning = show_warning
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
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
