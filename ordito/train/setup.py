"""Everything before the first step of a run: the model, the task, the data, and their division among processes."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ordito.errors import OrditoWarning
from ordito.memory import keep_freed_memory
from ordito.threads import usable_threads
from ordito.train.config import Config
from ordito.train.data.prepare import Dataset, prepare
from ordito.train.examples import Example
from ordito.train.listener import Listener
from ordito.train.loop import Trainer
from ordito.train.processes import Processes
from ordito.train.routing import after_step, with_routing
from ordito.train.subject import Subject, open_subject
from ordito.train.task import Context, Task, kind_named

if TYPE_CHECKING:
    from ordito.train.sharding import Sharding

DATA = "data"
"""The folder of prepared examples, inside the run's."""

_NEEDS = {"patience": "eval_data", "samples": "sample_every"}
"""Settings that do nothing without another."""


def set_up(config: Config, listener: Listener, processes: Processes | None = None) -> tuple[Trainer, list[Example]]:
    """A trainer before its first step, and its evaluation examples; without `processes`, of this process alone.

    The trainer's configuration includes settings that the task derived from its data (classes). Raises `OrditoError` in all
    processes if one fails.
    """
    processes = processes or Processes()
    if processes.first:
        _warn_of_unused(config)
    keep_freed_memory()
    torch.set_num_threads(config.threads or min(torch.get_num_threads(), usable_threads()))
    listener.says(f"loading {config.model}")
    with processes.together():
        subject = open_subject(config)
        task = _task(config, subject)
        if task.settings is not None:
            config = config.model_copy(update={"settings": task.settings})
        found = examples(config, config.data, task, subject, listener, stream=config.stream)
        data = found.ordered(config.batch_size, config.pack and task.packs, config.seed)
        evaluated: list[Example] = []
        if config.eval_data:
            evaluated = examples(config, config.eval_data, task, subject, listener, stream=False).first(config.eval_rows)
        sharding = _sharding(config, subject, task, processes)
    if config.compile:
        subject.compile()
    total = config.steps or data.steps(config.epochs)
    return Trainer(config, subject, task, data, found.key, total, processes, sharding), evaluated


def _warn_of_unused(config: Config) -> None:
    for name, needed in _NEEDS.items():
        if getattr(config, name) and not getattr(config, needed):
            warnings.warn(f"{name} does nothing without {needed}: set both or neither", OrditoWarning, stacklevel=3)
    if config.optimizer == "muon" and config.adapter != "none":
        warnings.warn("optimizer=muon is for whole matrices: AdamW trains the adapter, at lr", OrditoWarning, stacklevel=3)


def examples(
    config: Config, sources: Sequence[str], task: Task, subject: Subject, listener: Listener, *, stream: bool
) -> Dataset:
    """The examples of sources, prepared once and cached in the run's folder."""
    named = ", ".join(sources)
    found = prepare(
        sources,
        task,
        length=config.length,
        text_length=subject.module.fitting(config.length),
        folder=config.folder / DATA,
        fingerprint=_fingerprint(subject, config.objective, config.settings.model_dump_json()),
        split_long=task.splits,
        stream=stream,
        report=lambda counts: listener.says(f"{named}: {counts.read:,} records read"),
    )
    listener.says(f"{named}: {found.counts.said}")
    return found


def _task(config: Config, subject: Subject) -> Task:
    """The task, with the losses and bias updates of mixtures of experts."""
    kind = kind_named(config.objective)
    task = kind.build(config.settings, Context(config, subject.module, subject.tokenizer, subject.template))
    subject.heads, subject.chats, subject.prompts = task.heads, task.chats, task.prompts
    own_after_step = task.after_step

    def after() -> None:
        after_step(subject.module, config.moe)
        if own_after_step is not None:
            own_after_step()

    return replace(task, objective=with_routing(task.objective, subject.module, config.moe), after_step=after)


def _sharding(config: Config, subject: Subject, task: Task, processes: Processes) -> Sharding | None:
    if processes.mesh is None:
        return None
    from ordito.train.sharding import Sharding

    return Sharding.of(subject, task, config, processes)


def _fingerprint(subject: Subject, *parts: str) -> str:
    """A hash of all that the tokens of examples depend on: vocabulary, tokenization of a probe text, chat template, task."""
    tokenizer, template = subject.tokenizer, subject.template
    probe = "Il filo dell'ordito, 1234 threads;  naïve café\n\n\tüß 你好 🧵"
    facts = (tokenizer.vocabulary.tokens, tokenizer.special, tokenizer.encode(probe), template and template.source, parts)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
