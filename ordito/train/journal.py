"""What is kept of a run beside its weights: a line of numbers for each step, TensorBoard's files, a plot of the loss."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ordito.checkpoint.writing import write_atomically
from ordito.errors import MissingDependencyError
from ordito.train.plot import loss_plot

METRICS, PLOT = "metrics.jsonl", "loss.svg"


class Journal:
    """`metrics.jsonl`, where each step's line is on the disk before the next step begins, and what is drawn of it."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder, self.path = folder, folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []
        self._board = _board(folder / "tensorboard") if tensorboard else None

    def resume(self, step: int) -> None:
        """Take up the journal behind `step`: lines of later steps were of weights that are gone."""
        self.records = [record for record in read_metrics(self.path) if record["step"] <= step]
        write_atomically(self.path, [(json.dumps(record) + "\n").encode() for record in self.records])

    def add(self, record: Mapping[str, Any]) -> None:
        """The numbers of one step."""
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
        """Draw, and let go of files."""
        self.draw()
        if self._board is not None:
            self._board.close()


class Unwritten(Journal):
    """What a process that does not write keeps of the run: the records, in memory."""

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.records: list[dict[str, Any]] = []

    def resume(self, step: int) -> None:
        """Nothing."""

    def add(self, record: Mapping[str, Any]) -> None:
        """The numbers of one step."""
        self.records.append(dict(record))

    def draw(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run so far; a last line that a killed process left half is passed over."""
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
