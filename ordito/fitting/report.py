"""A prediction (`Fit`) as tables, for terminals and notebooks."""

from __future__ import annotations

from ordito.accounting import Table
from ordito.fitting.prediction import Choice, Fit, Rate
from ordito.units import size


def tables(found: Fit) -> list[Table]:
    """Tables of memory, of speed and of every quantization."""
    return [memory_table(found), rates_table(found), choices_table(found)]


def memory_table(found: Fit) -> Table:
    """The memory by its parts, whether it fits, and the largest context that does."""
    memory, machine = found.memory, found.machine
    sequences = f"{found.batch} sequences" if found.batch > 1 else "one sequence"
    rows = [
        ("runtime", size(memory.process)),
        ("weights", size(memory.weights)),
        ("mapped file", size(memory.file)),
        ("tokenizer", size(memory.vocabulary)),
        ("KV cache", size(memory.cache)),
        ("activations during prefill", size(memory.activations)),
        ("extra while loading", size(memory.opening)),
        ("peak total", size(memory.total)),
    ]
    verdict = "fits" if found.fits else f"does not fit: {size(memory.total - machine.memory)} short"
    largest = found.chosen.largest_context
    rows.append(("", verdict))
    rows.append(("largest context that fits", f"{largest:,}" if largest else "none"))
    return Table(f"Memory, {sequences} of {found.context:,} tokens, backend {found.backend}", ("", ">"), tuple(rows))


def rates_table(found: Fit) -> Table:
    """The predicted rates and their limits."""
    rows = [("prefill", *rate(found.prefill))]
    if found.decode:
        rows.append((f"decode at {found.context:,} tokens", *rate(found.decode)))
    return Table("Tokens per second", ("", ">predicted", ">machine's limit", "limited by"), tuple(rows))


def rate(found: Rate) -> tuple[str, str, str]:
    """A rate as cells."""
    return f"{found.predicted:,.1f}", f"{found.limit:,.1f}", found.limited_by


def choices_table(found: Fit) -> Table:
    """A row for every quantization."""
    columns = ("", ">file", ">memory", "fits", ">largest context", ">tokens/s", ">limit")
    return Table("By quantization", columns, tuple(cells(choice) for choice in found.quantizations))


def cells(choice: Choice) -> tuple[str, ...]:
    """A quantization as cells."""
    decode = choice.decode
    return (
        choice.name,
        size(choice.file),
        size(choice.memory.total),
        "yes" if choice.fits else "no",
        f"{choice.largest_context:,}" if choice.largest_context else "none",
        f"{decode.predicted:,.1f}" if decode else "",
        f"{decode.limit:,.1f}" if decode else "",
    )
