"""A training run: steps, evaluations, samples, checkpoints and resuming, for `ordito train` and `ordito.train.fit`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ordito.errors import CheckpointError, OrditoError, OrditoWarning
from ordito.files import remove_unfinished, write_atomically
from ordito.train.best import Best
from ordito.train.checkpoints import Checkpoints
from ordito.train.config import Config, config_from, read_settings
from ordito.train.examples import Example
from ordito.train.journal import Journal, MemoryJournal
from ordito.train.listener import Listener, Quiet
from ordito.train.loop import NotFiniteError, Trainer
from ordito.train.processes import Processes, everywhere, joined
from ordito.train.samples import sample
from ordito.train.setup import set_up
from ordito.train.stops import STOP_FILE, Stops
from ordito.train.subject import Subject

RUN = "run.yaml"
CHECKPOINTS = "checkpoints"
_FREE = frozenset({"max_time", "keep", "save_every", "output", "threads", "tensorboard", "micro_batch", "parallel"})
"""Settings that may change when a run is resumed: they do not change its results, but for rounding."""


@dataclass(frozen=True)
class Result:
    """How a run ended: its steps, the metrics of the last one, its folder, and why it stopped early (None: it did not).

    `exported`: the model is in the folder. A run that was stopped before, by a signal say, is to be resumed.
    """

    steps: int
    metrics: Mapping[str, Any]
    folder: Path
    stopped: str | None
    exported: bool = True


def fit(objective: str | Config, *, resume: bool = False, listener: Listener | None = None, **values: Any) -> Result:
    """Train, as `ordito train OBJECTIVE` does; settings are those of `Config`, by keyword.

    >>> ordito.train.fit("sft", model="smollm2", data="chats.jsonl", output="out", lr=1e-4)  # doctest: +SKIP

    With `resume` a run continues from its newest checkpoint, to the same numbers as without the interruption. Raises
    `OrditoError` if it cannot start or continue.
    """
    config = objective if isinstance(objective, Config) else config_from({"objective": objective, **values})
    return Run(config, listener or Quiet()).go(resume)


class Run:
    """A run in its folder, in one or several processes."""

    def __init__(self, config: Config, listener: Listener) -> None:
        self.config, self.listener = config, listener
        self.processes = Processes()
        self.checkpoints = Checkpoints(config.folder / CHECKPOINTS, config.keep)

    def go(self, resume: bool) -> Result:
        """Run to the end; of several processes, the first writes files and reports."""
        with joined(self.config.parallel) as self.processes:
            if self.processes.mesh is not None:
                from ordito.train.distributed_checkpoints import DistributedCheckpoints

                self.checkpoints = DistributedCheckpoints(self.checkpoints.folder, self.config.keep, self.processes)
            if not self.processes.first:
                self.listener = Quiet()
            return self._go(resume)

    def _go(self, resume: bool) -> Result:
        with self.processes.together():
            self._check_folder(resume)
            if resume:
                (self.config.folder / STOP_FILE).unlink(missing_ok=True)
        trainer, evaluated = set_up(self.config, self.listener, self.processes)
        self.config = trainer.config
        best = self._resume(trainer) if resume else Best()
        journal_type = Journal if self.processes.first else MemoryJournal
        with self.processes.together():
            journal = journal_type(self.config.folder, trainer.done, self.config.tensorboard)
            if self.processes.first:
                remove_unfinished(self.config.folder)
                self._write_settings()
        try:
            with Stops(self.config.folder, self.config.max_time).listening() as stops:
                stopped = self._loop(trainer, evaluated, journal, stops, best)
        finally:
            journal.close()
        return self._finish(trainer, journal, stopped, best)

    def _loop(self, trainer: Trainer, evaluated: Sequence[Example], journal: Journal, stops: Stops, best: Best) -> str | None:
        """Train until the last step, or until a reason to stop, which is returned."""
        config = self.config
        every = config.save_every or max(1, trainer.total // 10)
        enough = f"eval_loss has not fallen for {config.patience} evaluations"
        if best.enough and trainer.done < trainer.total:  # a resumed run that was stopped early
            return enough
        self.listener.begins(trainer)
        while trainer.done < trainer.total:
            record = self._step(trainer, best)
            step, last = trainer.done, trainer.done == trainer.total
            if evaluated and (last or (config.eval_every and step % config.eval_every == 0)):
                record |= trainer.evaluate(evaluated)
            with self._writing():
                journal.add(record)
            self.listener.stepped(record)
            if config.sample_every and (step % config.sample_every == 0 or last):
                self._sample(trainer.subject, journal, step)
            why = self.processes.agreed(stops.reason()) if not last else None
            improved = best.improved(record) and config.patience is not None
            if config.patience and best.waited >= config.patience and not last:
                why, best.enough = enough, True
            if step % every == 0 or last or why or improved:
                self._save(trainer, best)
                journal.draw()
            if why is not None:
                return why
        return None

    def _step(self, trainer: Trainer, best: Best) -> dict[str, Any]:
        """One step; if its loss is not finite, the weights before it are saved."""
        try:
            return trainer.step()
        except NotFiniteError as error:
            self._save(trainer, best)
            raise everywhere(
                NotFiniteError(
                    f"{error}; the weights before this step are kept in {self.checkpoints.path(trainer.done)}. Lower lr, "
                    "raise warmup, or look at the batch: ordito train ... --inspect"
                )
            ) from None

    def _save(self, trainer: Trainer, best: Best) -> None:
        protected = best.step if self.config.patience else None
        with self._writing():
            self.checkpoints.save(trainer.snapshot(best=asdict(best), data=trainer.data_key), protected)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """If files of the run cannot be written, as on a full disk, the error says what is kept and how to go on."""
        try:
            yield
        except CheckpointError as error:
            last = self.checkpoints.steps()
            kept = f"the checkpoint of step {last[-1]} is as it was" if last else "there is no earlier one"
            command = f"ordito train --resume --output {self.config.output}"
            raise everywhere(CheckpointError(f"{error}; {kept}. Make room, then go on: {command}")) from None

    def _resume(self, trainer: Trainer) -> Best:
        """Restore the newest intact checkpoint; without any, start from the beginning."""
        saved = self.checkpoints.newest(trainer.parameters)
        if saved is not None:
            if saved.state.get("data", trainer.data_key) != trainer.data_key:
                raise everywhere(
                    OrditoError(
                        f"{', '.join(self.config.data)}: holds other examples than when the run began: a run goes on with the "
                        "data that it was begun with; begin another in a folder of its own"
                    )
                )
            trainer.restore(saved)
        self.listener.says(f"resuming after step {trainer.done} of {trainer.total}")
        return Best(**saved.state["best"]) if saved is not None else Best()

    def _finish(self, trainer: Trainer, journal: Journal, stopped: str | None, best: Best) -> Result:
        """Export the model, or the best one with `patience`, unless the run is to be resumed."""
        config, done = self.config, trainer.done
        complete = stopped is None or best.enough
        if complete:
            if config.patience and best.step is not None and best.step != done:
                saved = self.checkpoints.load(best.step, trainer.parameters)
                trainer.restore(saved)
                self.listener.says(f"the best weights are those of step {saved.step}")
            if trainer.sharding is not None:
                trainer.sharding.undo()
            with self.processes.together():
                if self.processes.first:
                    trainer.subject.export(config.folder)
        last = journal.records[-1] if journal.records else {}
        result = Result(done, last, config.folder, stopped, complete)
        self.listener.ends(result)
        return result

    def _sample(self, subject: Subject, journal: Journal, step: int) -> None:
        for prompt in self.config.samples:
            try:
                text = sample(subject, prompt, self.config.sample_tokens)
            except OrditoError as error:  # no reason to end a run
                warnings.warn(f"no sample of {prompt!r:.80}: {error}", OrditoWarning, stacklevel=2)
                continue
            self.listener.sampled(step, prompt, text)
            with self._writing():
                journal.add_sample(step, prompt, text)

    def _check_folder(self, resume: bool) -> None:
        """Refuse to start in the folder of another run, or to resume with other settings than those of its `run.yaml`."""
        path = self.config.folder / RUN
        if not path.is_file():
            return
        if not resume:
            raise OrditoError(f"{self.config.folder}: holds a run already: go on with --resume, or choose another output")
        begun = config_from(read_settings(path))
        if begun.objective == self.config.objective:
            # Lists that were not given, and that the task found in its data at the start (classes), are kept.
            found = {name: value for name, value in begun.settings if getattr(self.config.settings, name) == ()}
            settings = self.config.settings.model_copy(update=found)
            self.config = self.config.model_copy(update={"settings": settings})
        before, now = begun.to_dict(), self.config.to_dict()
        other = [key for key in now if now[key] != before.get(key) and key not in _FREE]
        if other:
            key = other[0]
            raise OrditoError(
                f"{path}: {key} was {before.get(key)!r:.80}, got {now[key]!r:.80}: a run goes on with the settings that it was "
                "begun with; begin another in a folder of its own"
            )

    def _write_settings(self) -> None:
        self.config.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.config.folder / RUN, [self.config.to_yaml().encode()])
