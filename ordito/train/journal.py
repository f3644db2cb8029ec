"""The log of a run: a JSON line of metrics per step, samples, TensorBoard files, a plot of the loss."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ordito.errors import CheckpointError, MissingDependencyError, OrditoWarning
from ordito.files import write_atomically
from ordito.train.plot import loss_plot

METRICS, SAMPLES, PLOT = "metrics.jsonl", "samples.jsonl", "loss.svg"


class Journal:
    """Writes `metrics.jsonl`, synced to disk after each step, samples, the plot, and TensorBoard files if asked for.

    It continues after step `done`: what an earlier process wrote of later steps is dropped, since those are run again.
    """

    def __init__(self, folder: Path, done: int = 0, tensorboard: bool = False) -> None:
        self.folder, self.path = folder, folder / METRICS
        folder.mkdir(parents=True, exist_ok=True)
        self.records = _truncate(self.path, done)
        _truncate(folder / SAMPLES, done)
        self._board = _board(folder / "tensorboard", done) if tensorboard else None

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the metrics of one step. Raises `CheckpointError` if they cannot be written."""
        self.records.append(dict(record))
        _append(self.path, record)
        if self._board is not None:
            with _writing(self.folder / "tensorboard"):
                for name, value in record.items():
                    if name != "step" and isinstance(value, int | float):
                        self._board.add_scalar(name, value, record["step"])

    def add_sample(self, step: int, prompt: str, text: str) -> None:
        """Add a sample: what the model answers to a prompt after `step`. Raises as `add`."""
        _append(self.folder / SAMPLES, {"step": step, "prompt": prompt, "text": text})

    def draw(self) -> None:
        """Draw the losses so far; warns if the plot cannot be written, since all that it shows is in the metrics."""
        if len(self.records) > 1:
            with _warning():
                write_atomically(self.folder / PLOT, [loss_plot(self.records).encode()])

    def close(self) -> None:
        """Draw the losses, and close files; warns as `draw`."""
        self.draw()
        if self._board is not None:
            with _warning(), _writing(self.folder / "tensorboard"):
                self._board.close()


class MemoryJournal(Journal):
    """The journal of a process that writes no files: records in memory only."""

    def __init__(self, folder: Path, done: int = 0, tensorboard: bool = False) -> None:
        self.records: list[dict[str, Any]] = []

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
    # Not splitlines, which also splits at characters that JSON leaves as they are (U+2028).
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            found.append(record)
    return found


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with _writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _truncate(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop the lines of a file after those of `step`; returns the records that are left."""
    kept = [record for record in read_metrics(path) if record["step"] <= step]
    if path.exists():
        write_atomically(path, [(json.dumps(record, ensure_ascii=False) + "\n").encode() for record in kept])
    return kept


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise an `OSError` as a `CheckpointError` that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None


@contextmanager
def _warning() -> Iterator[None]:
    """Turn a `CheckpointError` into a warning."""
    try:
        yield
    except CheckpointError as error:
        warnings.warn(str(error), OrditoWarning, stacklevel=4)


def _board(folder: Path, done: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("tensorboard=true needs TensorBoard: pip install 'ordito[train]'") from None
    # TensorBoard hides what an earlier process wrote from `purge_step` on.
    with _writing(folder):
        return SummaryWriter(str(folder), purge_step=done + 1)
