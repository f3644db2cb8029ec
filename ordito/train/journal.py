"""The log of a run: a JSON line of metrics per step, TensorBoard files, a plot of the loss."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ordito.errors import MissingDependencyError
from ordito.files import write_atomically
from ordito.train.plot import loss_plot

METRICS, PLOT = "metrics.jsonl", "loss.svg"


class Journal:
    """Writes `metrics.jsonl`, synced to disk after each step, the plot, and TensorBoard files if asked for."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder, self.path = folder, folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def resume(self, step: int) -> None:
        """Read the journal and drop the lines after `step`: those steps will be run again."""
        self.records = [record for record in read_metrics(self.path) if record["step"] <= step]
        write_atomically(self.path, [(json.dumps(record) + "\n").encode() for record in self.records])

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the metrics of one step."""
        self.records.append(dict(record))
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._board is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, record["step"])

    def draw(self) -> None:
        """Draw the losses so far."""
        if len(self.records) > 1:
            write_atomically(self.folder / PLOT, [loss_plot(self.records).encode()])

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


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("tensorboard=true needs TensorBoard: pip install 'ordito[train]'") from None
    return SummaryWriter(str(folder))
