"""The training step: gradients over micro-batches, clipping, the optimizers; evaluation; state for checkpoints.

A step is a function of the weights, the optimizers' states, the seed and the number of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ordito.errors import OrditoError
from ordito.train.batch import Batch, collate
from ordito.train.checkpoints import Snapshot
from ordito.train.config import Config
from ordito.train.data.prepare import Rows
from ordito.train.examples import Example
from ordito.train.forward import Forward
from ordito.train.optimizers import fast_bfloat16, load_tensors, optimizers, set_rate, tensors_of
from ordito.train.processes import Processes, everywhere
from ordito.train.schedules import share_of_peak
from ordito.train.subject import Subject, load_weights
from ordito.train.task import Task

if TYPE_CHECKING:
    from ordito.train.sharding import Sharding

MICRO_TOKENS = 2048
"""Tokens of a micro-batch by default: enough for efficient matrix products, few enough for little activation memory."""


class NotFiniteError(OrditoError):
    """A loss or gradient is infinite or NaN; the weights are those before the step."""


@dataclass(eq=False)
class Trainer:
    """A run in memory: the model, its task, data and optimizers, after `done` of `total` optimizer steps.

    `data_key` is a hash of everything that the examples of `data` depend on.
    """

    config: Config
    subject: Subject
    task: Task
    data: Rows
    data_key: str
    total: int
    processes: Processes
    sharding: Sharding | None = None
    done: int = 0

    def __post_init__(self) -> None:
        self.parameters = self.subject.parameters()
        self.optimizers = optimizers(self.config, self.parameters, self.subject.matrices())
        self.device = next(self.subject.module.parameters()).device

    def step(self) -> dict[str, Any]:
        """One optimizer step; returns its metrics. Raises `NotFiniteError` and leaves the weights as they were."""
        started = time.perf_counter()
        record = self.compute_gradients()
        self.update_weights()
        seconds = time.perf_counter() - started
        speed = {"tokens_per_second": record["tokens"] / seconds, "seconds": seconds}
        return {"step": self.done, **record, **speed}

    def compute_gradients(self) -> dict[str, Any]:
        """Accumulate the step's gradients over all micro-batches and processes, clip their norm to `clip`; returns its metrics.

        Raises `NotFiniteError`, with the gradients cleared and the weights untouched.
        """
        self.subject.train()
        batches = self.batches(self.done)
        nothing = {term.name: 0.0 for _, term in self.task.objective.terms}
        counts = self.processes.sums(_sum([nothing, *(self.task.objective.counts(batch) for batch in batches)]))
        size = {"tokens": sum(batch.n_tokens for batch in batches), "learned": sum(batch.n_learned for batch in batches)}
        sums: dict[str, Tensor | float] = {**nothing}
        missing = self._missing_passes(len(batches))
        # Around all micro-batches, so that autocast casts the weights once for all of them; FSDP gathers them anew each time.
        with self.autocast() if self.sharding is None else nullcontext():
            for part, batch in enumerate(batches):
                # Randomness (dropout) depends on seed, step, process and micro-batch alone, so that a resumed run is the same.
                torch.manual_seed(_seed(self.config.seed, self.done, self.processes.data_rank, part))
                with self.autocast():
                    totals = self.task.objective.totals(Forward(self.subject.module, batch.to(self.device)))
                    loss = self.task.objective.loss(totals, counts)
                with torch.autocast(self.device.type, enabled=False):
                    loss.backward()  # type: ignore[no-untyped-call]
                for name, total in totals.items():
                    sums[name] = sums[name] + total.detach()
        self._dummy_passes(missing, backward=True)
        if self.sharding is not None:
            self.sharding.sum_gradients()
        found = self.processes.sums({name: float(total) for name, total in sums.items()})
        norm = self._clip_gradients()
        numbers = self._losses(found, counts)
        if not all(math.isfinite(value) for value in (norm, *numbers.values())):
            self._clear_gradients()
            raise everywhere(NotFiniteError(f"step {self.done + 1}: {_what_is_not_finite(norm, numbers)}"))
        sizes = {name: int(value) for name, value in self.processes.sums(size).items()}
        rate = share_of_peak(self.config, self.done, self.total) * self.config.lr
        return {**numbers, "lr": rate, "grad_norm": norm, **sizes}

    def update_weights(self) -> None:
        """Step the optimizers at the learning rate of this step, and clear the gradients."""
        set_rate(self.optimizers, share_of_peak(self.config, self.done, self.total))
        for optimizer in self.optimizers:
            optimizer.step()
        self._clear_gradients()
        if self.task.after_step is not None:
            self.task.after_step()
        self.done += 1

    def autocast(self) -> AbstractContextManager[Any]:
        """Autocast to bfloat16 where the run asks for it or, with `precision: auto`, where it is faster here."""
        wanted = self.config.precision
        if wanted == "bfloat16" or (wanted == "auto" and fast_bfloat16(self.device)):
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    @torch.no_grad()
    def evaluate(self, examples: Sequence[Example]) -> dict[str, float]:
        """Loss, terms and metrics of the task over held-out examples, each under its name with `eval_` before it."""
        self.subject.train(False)
        measured = {term.name: term for term in self.task.metrics}
        sums = dict.fromkeys([*measured, *(term.name for _, term in self.task.objective.terms)], 0.0)
        counts = dict(sums)
        batches = self._batches([[example] for example in self.processes.share(list(examples))])
        missing = self._missing_passes(len(batches))
        for batch in batches:
            with self.autocast():
                forward = Forward(self.subject.module, batch.to(self.device))
                totals = self.task.objective.totals(forward) | {n: term.total(forward) for n, term in measured.items()}
            sums = _sum([sums, {name: float(total) for name, total in totals.items()}])
            own = {name: float(term.count(batch)) for name, term in measured.items()}
            counts = _sum([counts, self.task.objective.counts(batch) | own])
        self._dummy_passes(missing, backward=False)
        sums, counts = self.processes.sums(sums), self.processes.sums(counts)
        numbers = self._losses(sums, counts)
        return {f"eval_{name}": value for name, value in numbers.items()} | {
            f"eval_{name}": sums[name] / max(counts[name], 1e-9) for name in measured
        }

    def snapshot(self, **state: Any) -> Snapshot:
        """The state of the run for a checkpoint, with further `state` as JSON values."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return Snapshot(self.done, weights, tensors_of(self.optimizers, self.parameters), state)

    def restore(self, snapshot: Snapshot) -> None:
        """Set weights, optimizers and step to those of a checkpoint."""
        load_weights(self.parameters, snapshot.weights)
        load_tensors(self.optimizers, self.parameters, snapshot.optimizer)
        self.done = snapshot.step

    def batches(self, step: int) -> list[Batch]:
        """This process's micro-batches of optimizer step `step`, counted from 0."""
        rows = [[self.data[number] for number in row] for row in self.processes.share(list(self.data.rows(step)))]
        if self.task.rewrite is not None:
            written = iter(self.task.rewrite([example for row in rows for example in row], step))
            rows = [[next(written) for _ in row] for row in rows]
        return self._batches(rows)

    def _batches(self, rows: Sequence[Sequence[Example]]) -> list[Batch]:
        size = len(rows) if self.task.whole else self.config.micro_batch or max(1, MICRO_TOKENS // self.config.length)
        return [self._batch(rows[begin : begin + size]) for begin in range(0, len(rows), max(1, size))]

    def _batch(self, rows: Sequence[Sequence[Example]]) -> Batch:
        examples = [example for row in rows for example in row]
        if not self.task.packs:
            return collate(examples)
        starts = np.cumsum([0, *(len(row) for row in rows)])
        return collate(examples, rows=[range(a, b) for a, b in pairwise(starts)])

    def _missing_passes(self, batches: int) -> int:
        """How many more passes another process makes: FSDP2 gathers weights in each, so all must make the same number."""
        sharded = self.sharding is not None and self.sharding.sharded
        return self.processes.most(batches) - batches if sharded else 0

    def _dummy_passes(self, passes: int, backward: bool) -> None:
        """Run passes with zero gradients on any example, to take part in the collectives of the other processes' passes."""
        if not passes:
            return
        self.subject.train(False)
        batch = self._batch([[self.data[0]]]).to(self.device)
        for _ in range(passes):
            with self.autocast():
                totals = self.task.objective.totals(Forward(self.subject.module, batch))
            if backward:
                nothing = 0.0 * torch.stack([total.float() for total in totals.values() if total.requires_grad]).sum()
                nothing.backward()  # type: ignore[no-untyped-call]

    def _clip_gradients(self) -> float:
        """Clip the norm of the gradient to `clip`; returns the norm before."""
        most = math.inf if self.config.clip is None else self.config.clip
        if self.sharding is not None:
            return self.sharding.clip(self.parameters.values(), most)
        return float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), most))

    def _clear_gradients(self) -> None:
        for parameter in self.parameters.values():
            parameter.grad = None

    def _losses(self, sums: dict[str, float], counts: dict[str, float]) -> dict[str, float]:
        """The loss and, if it has several, its terms, each divided by its count."""
        terms = self.task.objective.terms
        each = {term.name: sums[term.name] / max(counts[term.name], 1e-9) for _, term in terms}
        whole = sum(weight * each[term.name] for weight, term in terms)
        return {"loss": whole} | (each if len(terms) > 1 else {})


def _sum(numbers: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in numbers:
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _seed(*place: int) -> int:
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> 1)


def _what_is_not_finite(norm: float, record: dict[str, float]) -> str:
    bad = next((name for name, value in record.items() if not math.isfinite(value)), None)
    return f"the {bad} is {record[bad]}" if bad else f"the loss is {record['loss']:.4g}, but the norm of its gradient is {norm}"
