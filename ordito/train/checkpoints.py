"""Training checkpoints: written atomically, verified by checksums when read, and pruned to the newest few."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import CheckpointError, OrditoWarning
from ordito.files import write_atomically

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Snapshot:
    """The state of a run after `step` steps: trained weights, tensors of the optimizers, and the rest as JSON values."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    state: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of a run: folders `step-NNNNNNNN`, of which the newest `keep` are kept, and a protected one."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def steps(self) -> list[int]:
        """The steps of the existing checkpoints, ascending."""
        names = [path.name for path in self.folder.glob("step-*") if (path / STATE).is_file()]
        return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdigit())

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, snapshot: Snapshot, protected: int | None = None) -> Path:
        """Write a checkpoint to a temporary folder, rename it when it is complete, and then delete older ones.

        That of the step `protected` is never deleted. Raises `CheckpointError` if it cannot be written; existing checkpoints
        are then unchanged.
        """
        with self._writing(snapshot.step) as unfinished:
            for name, tensors in ((WEIGHTS, snapshot.weights), (OPTIMIZER, snapshot.optimizer)):
                write_safetensors(unfinished / name, {key: _array(tensor) for key, tensor in tensors.items()})
            self._complete(snapshot)
        self._prune(protected)
        return self.path(snapshot.step)

    @contextmanager
    def _writing(self, step: int) -> Iterator[Path]:
        """An empty temporary folder, which is deleted at the end of the context unless it was renamed."""
        unfinished = self._unfinished(step)
        with self._os_errors(step):
            try:
                for left in self.folder.glob(".unfinished-*"):  # left by killed processes
                    shutil.rmtree(left, ignore_errors=True)
                unfinished.mkdir(parents=True)
                yield unfinished
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)

    @contextmanager
    def _os_errors(self, step: int) -> Iterator[None]:
        """Raise an `OSError` as a `CheckpointError`."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self.path(step)}: cannot be written ({error.strerror or error})") from None

    def _complete(self, snapshot: Snapshot) -> None:
        """Write the checksums and the state, and rename the folder."""
        final, unfinished = self.path(snapshot.step), self._unfinished(snapshot.step)
        sums = {path.name: _checksum(path) for path in sorted(unfinished.iterdir())}
        text = json.dumps({"step": snapshot.step, "files": sums, **snapshot.state}, indent=2) + "\n"
        write_atomically(unfinished / STATE, [text.encode()])
        if final.exists():
            shutil.rmtree(final)
        os.replace(unfinished, final)

    def _unfinished(self, step: int) -> Path:
        return self.folder / f".unfinished-{step:08d}"

    def load(self, step: int, like: Mapping[str, Tensor] | None = None) -> Snapshot:
        """Read a checkpoint; a sharded one (`distributed_checkpoints`) is sharded as the parameters `like`.

        Raises `CheckpointError`, which names the file, if it is damaged.
        """
        path = self.path(step)
        try:
            state = json.loads((path / STATE).read_text(encoding="utf-8"))
            sums = state["files"]
            for name in sums:
                if _checksum(path / name) != sums[name]:
                    raise CheckpointError(f"{path / name}: is damaged: its checksum is not the one in {STATE}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path / STATE}: is damaged ({type(error).__name__}: {error})") from None
        if WEIGHTS not in sums:
            from ordito.train.distributed_checkpoints import read

            return Snapshot(state["step"], *read(path, like or {}), state)
        return Snapshot(state["step"], _tensors(path / WEIGHTS), _tensors(path / OPTIMIZER), state)

    def newest(self, like: Mapping[str, Tensor] | None = None) -> Snapshot | None:
        """The newest intact checkpoint, with a warning about each damaged one before it; None if there are no checkpoints.

        Raises `CheckpointError` if all are damaged.
        """
        steps, first = self.steps(), None
        for step in reversed(steps):
            try:
                return self.load(step, like)
            except CheckpointError as error:
                first = first or error
                warnings.warn(f"{error}; going back to the checkpoint before it", OrditoWarning, stacklevel=2)
        if first is not None:
            raise CheckpointError(f"{self.folder}: no checkpoint is sound ({first}): begin anew in another folder") from None
        return None

    def _prune(self, protected: int | None) -> None:
        for step in self.steps()[: -self.keep]:
            if step != protected:
                shutil.rmtree(self.path(step), ignore_errors=True)


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().contiguous().numpy()
    return array


def _tensors(path: Path) -> dict[str, Tensor]:
    file = read_safetensors(path)
    dtypes = {"f32": np.float32, "f64": np.float64, "i64": np.int64, "i32": np.int32, "u8": np.uint8, "bool": np.bool_}
    found = {}
    for name, stored in file.tensors.items():
        array: np.ndarray = np.frombuffer(stored.data.tobytes(), dtypes[stored.encoding]).reshape(stored.shape)
        found[name] = torch.from_numpy(array.copy())
    return found


def _checksum(path: Path) -> str:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
    return "missing"
