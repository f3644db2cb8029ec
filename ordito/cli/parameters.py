"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ordito.checkpoint.store import DEFAULT_MODEL

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def default_model(help: str = "A name, org/name[:quant][@revision], or a path.") -> Decorator:
    """An optional argument: the model, by default the default one."""
    return click.argument("model", default=DEFAULT_MODEL, metavar="[MODEL]", help=f"{help}  [default: {DEFAULT_MODEL}]")


def one_model(help: str = "A name, org/name[:quant][@revision], or a path.") -> Decorator:
    """A required argument: the model."""
    return click.argument("model", metavar="MODEL", help=help)


backend_name = click.option("--backend", metavar="NAME", help="native or torch. [default: the fastest that is installed]")
arithmetic = click.option(
    "--dtype", metavar="TYPE", help="Arithmetic. native: int12, int8, float32; torch: float32, bfloat16, float16."
)
quantization = click.option("--quantize", metavar="TYPE", help="Quantize the weights while loading: q8_0, q4_k_m, ...")
json_output = click.option("--json", is_flag=True, help="Print one JSON object.")
