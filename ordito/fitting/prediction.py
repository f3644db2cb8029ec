"""Whether a model fits into a machine's memory and how fast it runs there, predicted before any download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ordito.accounting import Account, account
from ordito.checkpoint.mixes import MIXES
from ordito.checkpoint.outline import Held, held_as
from ordito.errors import OrditoError
from ordito.fitting.backends import Backend, backend
from ordito.fitting.machine import Machine, this_machine
from ordito.fitting.memory import Demand, Memory, demand
from ordito.fitting.vocabularies import VocabularySize, assumed
from ordito.spec import Spec, expect_spec

CONTEXT = 4096
"""The default context, if the model has so much."""
PROMPT = 512
"""The length of the prompt for which prefill is predicted."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Tokens per second: as predicted, at most (`limit`) on this machine, and whether memory or arithmetic sets the limit."""

    predicted: float
    limit: float
    limited_by: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"predicted": self.predicted, "limit": self.limit, "limited_by": self.limited_by}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A quantization: the bytes of its file, the memory to run it, the largest context that fits, the rate of decoding."""

    name: str
    file: int
    memory: Memory
    fits: bool
    largest_context: int | None
    decode: Rate | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "name": self.name,
            "file": self.file,
            "memory": self.memory.to_dict(),
            "fits": self.fits,
            "largest_context": self.largest_context,
            "decode": self.decode.to_dict() if self.decode else None,
        }


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A model on a machine, with `batch` sequences of `context` tokens; `chosen` is how it is stored, or would be.

    `decode` is the rate of all sequences together at that context, None for a model that does not generate; `prefill` that
    of a prompt. Of an encoder-decoder, sources are as long as answers, and `prefill` is the encoder's reading of a source.
    """

    machine: Machine
    backend: str
    context: int
    batch: int
    chosen: Choice
    prefill: Rate
    quantizations: tuple[Choice, ...]

    @property
    def memory(self) -> Memory:
        """The memory to run it."""
        return self.chosen.memory

    @property
    def fits(self) -> bool:
        """Whether the machine has enough free memory."""
        return self.chosen.fits

    @property
    def decode(self) -> Rate | None:
        """The rate of decoding."""
        return self.chosen.decode

    def to_dict(self) -> dict[str, Any]:
        """As JSON values with stable keys."""
        return {
            "machine": self.machine.to_dict(),
            "backend": self.backend,
            "context": self.context,
            "batch": self.batch,
            "stored_as": self.chosen.name,
            "memory": self.memory.to_dict(),
            "fits": self.fits,
            "largest_context": self.chosen.largest_context,
            "prefill": self.prefill.to_dict(),
            "decode": self.decode.to_dict() if self.decode else None,
            "quantizations": [choice.to_dict() for choice in self.quantizations],
        }

    def _repr_html_(self) -> str:
        from ordito.fitting.report import tables

        return "".join(table.html() for table in tables(self))


def fit(
    spec: Spec,
    stored: Mapping[str, Held] | None = None,
    *,
    file_bytes: int | None = None,
    vocabulary: VocabularySize | None = None,
    context: int | None = None,
    batch: int = 1,
    quant: str | None = None,
    machine: Machine | None = None,
    backend_name: str | None = None,
) -> Fit:
    """The memory that `spec` takes and its speed, as `stored` in files of `file_bytes`, or in the quantization `quant`.

    Without either, in BF16. The size of the `vocabulary` is estimated unless given (`vocabulary_size`); the machine is this
    one, measured now, unless given. Raises `OrditoError` for anything but a spec, a context that the model does not have, or
    an unknown quantization.
    """
    expect_spec(spec, "fit")
    if context is not None and not 1 <= context <= spec.context:
        raise OrditoError(f"got a context of {context}, expected 1 to {spec.context}, which the model was made for")
    if batch < 1:
        raise OrditoError(f"got a batch of {batch}, expected at least 1")
    context = context or min(CONTEXT, spec.context)
    machine, runtime = machine or this_machine(), backend(backend_name)

    needs = demand(account(spec), vocabulary or assumed(spec.vocab_size))

    def choice(name: str, held: Mapping[str, Held], size: int | None = None) -> Choice:
        found = account(spec, held)
        file = size if size is not None else found.nbytes
        weights = runtime.stored(machine, found)
        memory = runtime.memory(needs, weights, file, context, batch)
        return Choice(
            name=name,
            file=file,
            memory=memory,
            fits=memory.total <= machine.memory,
            largest_context=_largest(runtime, machine, needs, (weights, file), spec.context, batch),
            decode=_decode(runtime, machine, found, needs, context, batch) if spec.generates else None,
        )

    quantizations = tuple(choice(name, held_as(spec, name)) for name in MIXES)
    if quant is not None or stored is None:
        name = "BF16" if quant is None else str(quant).upper()
        stored = held_as(spec, name)
        chosen = choice(name, stored)
    else:
        chosen = choice("the file", stored, file_bytes)
    return Fit(
        machine=machine,
        backend=runtime.name,
        context=context,
        batch=batch,
        chosen=chosen,
        prefill=_prefill(runtime, machine, account(spec, stored), needs, min(PROMPT, context)),
        quantizations=quantizations,
    )


def _largest(runtime: Backend, machine: Machine, needs: Demand, sizes: tuple[int, int], longest: int, batch: int) -> int | None:
    """The longest context that fits, up to the model's own; None if not even one token does. `sizes`: of weights and file."""
    low, high = 0, longest
    while low < high:
        middle = (low + high + 1) // 2
        if runtime.memory(needs, *sizes, middle, batch).total <= machine.memory:
            low = middle
        else:
            high = middle - 1
    return low or None


def _decode(runtime: Backend, machine: Machine, found: Account, needs: Demand, context: int, batch: int) -> Rate:
    """Tokens per second of greedy decoding, all sequences together. The limit reads each byte that they need once."""
    weights = found.weights_read - runtime.spared(found)
    source = context if found.spec.encoder else 0
    flops = batch * found.flops.decode(context, source=source).total
    work = machine.seconds(flops, runtime.shares(machine, found))
    cache = found.kv_cache.at(context) + 2 * sum(numbers for numbers, _ in needs.crossed) * source
    stored = (weights + batch * cache) / machine.bandwidth
    ours = runtime.read(needs, weights, context, batch) / machine.bandwidth / runtime.decode
    return Rate(
        predicted=batch / max(ours, runtime.seconds(machine, found, flops)),
        limit=batch / max(stored, work),
        limited_by="memory bandwidth" if stored > work else "arithmetic",
    )


def _prefill(runtime: Backend, machine: Machine, found: Account, needs: Demand, tokens: int) -> Rate:
    """Tokens per second of the prefill of a prompt. The more tokens, the more experts of a mixture are read."""
    flops = found.flops.prefill(tokens).total
    work = machine.seconds(flops, runtime.shares(machine, found))
    weights = found.read_at_once(tokens) / machine.bandwidth
    kept = runtime.weights_read(needs, found.weights_read) / found.weights_read  # bytes in memory for each in the file
    ours = max(runtime.seconds(machine, found, flops), kept * weights / runtime.decode)
    return Rate(
        predicted=tokens / ours,
        limit=tokens / max(work, weights),
        limited_by="arithmetic" if work > weights else "memory bandwidth",
    )
