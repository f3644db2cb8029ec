"""Dry run: the steps, time and memory of a run, from measured optimizer steps."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ordito.accounting import Table
from ordito.errors import OrditoError, OrditoWarning
from ordito.memory import free_memory
from ordito.train.config import Config
from ordito.units import size


@dataclass(frozen=True)
class Plan:
    """The forecast of a run: `phases` are peak bytes of the process in each phase, `seconds` those of one step."""

    steps: int
    rows: int
    tokens: int
    learned: int
    trained: int
    parameters: int
    utilisation: float
    phases: dict[str, int]
    seconds: float
    free: int
    checkpoint: int
    disk: int

    @property
    def peak(self) -> int:
        """Peak memory of the process, in bytes."""
        return max(self.phases.values())

    @property
    def fits(self) -> bool:
        """Whether that much memory is free."""
        return self.peak <= self.free

    def text(self) -> str:
        """As a table, and what to change if it does not fit."""
        rows = [
            ("optimizer steps", f"{self.steps:,}"),
            ("rows of a step", f"{self.rows:,}"),
            ("tokens of a step", f"{self.tokens:,}, of which {self.learned:,} are learned"),
            ("rows filled", f"{self.utilisation:.0%}"),
            ("trained", f"{self.trained:,} of {self.parameters:,} parameters"),
            ("a step", f"{self.seconds:.2f} s, {self.tokens / self.seconds:,.0f} tokens/s"),
            ("in all", f"{_duration(self.seconds * self.steps)}"),
            ("a checkpoint", f"{size(self.checkpoint)} ({size(self.disk)} are free there)"),
            *((f"memory, {phase}", size(nbytes)) for phase, nbytes in self.phases.items()),
            ("memory, at most", f"{size(self.peak)} ({size(self.free)} are free)"),
        ]
        said = "it fits" if self.fits else f"it does not fit: {'; '.join(ADVICE)}"
        return "\n".join([*Table("", ("", ""), tuple(rows)).lines(), said])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**vars(self), "peak": self.peak, "fits": self.fits}


ADVICE = (
    "lower micro_batch (--set micro_batch=1)",
    "shorter rows (length)",
    "recompute=true",
    "adapter=lora, which needs no gradients and no optimizer state for the weights",
)


def planned(config: Config) -> Plan:
    """Measure steps of a run, in a process of its own and a temporary folder.

    The phases are peaks of the process's resident memory: after loading, in the forward and backward pass, in the optimizer, in
    a later step, the longest included, and in writing a checkpoint; also in evaluating a batch, where all its rows are needed
    at once, and in merging an adapter. Tokens and time of a step are those of the mean step. Raises as the run itself would.
    """
    with tempfile.TemporaryDirectory(prefix="ordito-plan-") as folder:
        task, answer = Path(folder, "task.pickle"), Path(folder, "answer.pickle")
        task.write_bytes(pickle.dumps(config.model_copy(update={"output": str(Path(folder, "run"))})))
        # Not by multiprocessing, which would run the user's script again in the new process.
        command = [sys.executable, "-c", f"from {__name__} import _measure; _measure()", str(task), str(answer)]
        paths = os.pathsep.join(filter(None, sys.path))
        subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, stdin=subprocess.DEVNULL, check=False)
        if not answer.is_file():
            raise OrditoError(f"the measured step ended its process: there is not enough memory. Try {'; '.join(ADVICE)}")
        found = pickle.loads(answer.read_bytes())
    if isinstance(found, Exception):
        raise found
    place = next(folder for folder in (config.folder, *config.folder.absolute().parents) if folder.exists())
    return Plan(**found, free=free_memory(), disk=shutil.disk_usage(place).free)


def _measure() -> None:
    """The main function of the process that measures: reads a configuration from one file, writes the findings to another."""
    task, answer = map(Path, sys.argv[1:])
    found: dict[str, Any] | OrditoError
    try:
        found = _measured(pickle.loads(task.read_bytes()))
    except Exception as error:
        found = error if isinstance(error, OrditoError) else OrditoError(f"{type(error).__name__}: {error}")
    answer.write_bytes(pickle.dumps(found))


def _measured(config: Config) -> dict[str, Any]:
    from ordito.train.checkpoints import Checkpoints
    from ordito.train.listener import Quiet
    from ordito.train.run import CHECKPOINTS
    from ordito.train.setup import set_up

    trainer, evaluated = set_up(config, Quiet())
    phases = {"weights": _peak()}
    trainer.compute_gradients()
    phases["forward and backward"] = _peak()
    trainer.update_weights()
    phases["the optimizer"] = _peak()
    # The second step is like the later ones; the first also allocates memory and fills caches.
    sizes = trainer.data.sizes[: trainer.total]
    second, longest = 1 % len(sizes), int(sizes.argmax())
    measured = {int(sizes[second]): trainer.step()}
    if sizes[longest] > sizes[second]:
        trainer.done = longest
        measured[int(sizes[longest])] = trainer.step()
    phases["a later step"] = _peak()
    folder = Checkpoints(config.folder / CHECKPOINTS, config.keep).save(trainer.snapshot())
    phases["a checkpoint"] = _peak()
    checkpoint = sum(file.stat().st_size for file in folder.iterdir())
    shutil.rmtree(folder)
    if evaluated and trainer.task.whole:
        trainer.evaluate(evaluated)
        phases["an evaluation"] = _peak()
    if trainer.subject.adapters is not None and trainer.subject.merge:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OrditoWarning)  # which the run itself will give
            trainer.subject.export(config.folder)
        phases["the merged model"] = _peak()

    def mean(name: str) -> float:
        """A number of the mean step, interpolated between the measured ones by their sizes."""
        return float(np.interp(sizes.mean(), list(measured), [record[name] for record in measured.values()]))

    parameters = list(trainer.subject.module.parameters())
    return {
        "steps": trainer.total,
        "rows": config.batch_size,
        "tokens": round(mean("tokens")),
        "learned": round(mean("learned")),
        "trained": sum(parameter.numel() for parameter in trainer.parameters.values()),
        "parameters": sum(parameter.numel() for parameter in parameters),
        "utilisation": trainer.data.utilisation,
        "phases": phases,
        "seconds": mean("seconds"),
        "checkpoint": checkpoint,
    }


def _peak() -> int:
    """Peak resident memory of this process since the last call, in bytes (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * int(lines["VmHWM"].split()[0])


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
