"""The log of a run: a JSON line of metrics per step, samples, TensorBoard files, a plot of the loss."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ordito.errors import CheckpointError, MissingDependencyError, OrditoWarning
from ordito.files import write_atomically
from ordito.train.plot import loss_plot

METRICS, SAMPLES, PLOT = "metrics.jsonl", "samples.jsonl", "loss.svg"


class Journal:
    """Writes `metrics.jsonl`, synced to disk after each step, samples, the plot, and TensorBoard files if asked for."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder, self.path = folder, folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def resume(self, step: int) -> None:
        """Read the journal and drop the lines after `step`: those steps will be run again."""
        self.records = _cut(self.path, step)
        if (samples := self.folder / SAMPLES).exists():
            _cut(samples, step)

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the metrics of one step. Raises `CheckpointError` if they cannot be written."""
        self.records.append(dict(record))
        _append(self.path, record)
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, record["step"])

    def add_sample(self, step: int, prompt: str, text: str) -> None:
        """Add a sample: what the model answers to a prompt after `step`. Raises as `add`."""
        _append(self.folder / SAMPLES, {"step": step, "prompt": prompt, "text": text})

    def draw(self) -> None:
        """Draw the losses so far; warns if the plot cannot be written, since all that it shows is in the metrics."""
        if len(self.records) > 1:
            try:
                write_atomically(self.folder / PLOT, [loss_plot(self.records).encode()])
            except CheckpointError as error:
                warnings.warn(str(error), OrditoWarning, stacklevel=2)

    def close(self) -> None:
        """Draw the losses, and close files."""
        self.draw()
        if self._board is not None:
            self._board.close()


class MemoryJournal(Journal):
    """The journal of a process that writes no files: records in memory only."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.records: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Do nothing."""

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the metrics of one step."""
        self.records.append(dict(record))

    def add_sample(self, step: int, prompt: str, text: str) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run so far; lines that a killed process left incomplete are skipped."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _append(path: Path, record: Mapping[str, Any]) -> None:
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


def _cut(path: Path, step: int) -> list[dict[str, Any]]:
    """The records of a file up to `step`, which are all that it then holds."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    write_atomically(path, [(json.dumps(record, ensure_ascii=False) + "\n").encode() for record in kept])
    return kept


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("tensorboard=true needs TensorBoard: pip install 'ordito[train]'") from None
    return SummaryWriter(str(folder))
