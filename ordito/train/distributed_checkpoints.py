"""Sharded checkpoints: each process writes its shards, and a run with any number of processes can resume from them.

`torch.distributed.checkpoint` writes safetensors files with the shards of each tensor and their offsets; they contain no
code. Folders, checksums and the all-or-nothing write are those of `Checkpoints`. All processes must see the same folder.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ordito.errors import CheckpointError, MissingDependencyError
from ordito.train.checkpoints import Checkpoints, Snapshot
from ordito.train.processes import Processes, everywhere

_PARTS = ("weights", "optimizer")


class DistributedCheckpoints(Checkpoints):
    """`Checkpoints` that several processes write together. If one process fails, all raise its error."""

    def __init__(self, folder: Path, keep: int, processes: Processes) -> None:
        super().__init__(folder, keep)
        self.processes = processes
        _storage()  # a missing package should be reported before training

    def save(self, snapshot: Snapshot, protected: int | None = None) -> Path:
        """See `Checkpoints`."""
        step = snapshot.step
        with ExitStack() as stack:
            with self.processes.together():
                if self.processes.first:
                    stack.enter_context(self._writing(step))
            try:
                write(self._unfinished(step), snapshot)
            except OSError as error:
                raise everywhere(CheckpointError(f"{self.path(step)}: cannot be written ({error})")) from None
            with self.processes.together(), self._os_errors(step):
                if self.processes.first:
                    self._complete(snapshot)
        if self.processes.first:
            self._prune(protected)
        return self.path(step)


def write(folder: Path, snapshot: Snapshot) -> None:
    """Write the shards of this process; all processes must call it together. Raises `OSError` in all of them if one fails."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_saver import save

    _, writer = _storage()
    tensors = {
        f"{part}/{name}": tensor
        for part, found in zip(_PARTS, (snapshot.weights, snapshot.optimizer), strict=True)
        for name, tensor in found.items()
    }
    try:
        save(tensors, storage_writer=writer(str(folder), save_distributed=True))
    except CheckpointException as error:
        raise OSError(_reason(error)) from None


def read(folder: Path, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights and optimizer tensors of a folder, sharded as the parameters `like`; those that have no such parameter are whole.

    All processes of a run must call it together. Raises `CheckpointError` if the files are not what was written.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = _storage()[0](str(folder))
    try:
        known = reader.read_metadata().state_dict_metadata
        tensors = {key: _empty(key, facts.size, facts.properties.dtype, like) for key, facts in known.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about reading without a process group
            load(tensors, storage_reader=reader)
    except (OSError, ValueError, KeyError, CheckpointException) as error:
        raise CheckpointError(f"{folder}: is damaged ({type(error).__name__}: {error})") from None
    weights, optimizer = (
        {key.removeprefix(f"{part}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{part}/")}
        for part in _PARTS
    )
    return weights, optimizer


def _empty(key: str, shape: torch.Size, dtype: torch.dtype, like: Mapping[str, Tensor]) -> Tensor:
    """An empty tensor to read into; that of a parameter, or of its optimizer state, is sharded as the parameter."""
    part, _, path = key.partition("/")
    name = path if part == _PARTS[0] else path.rpartition("/")[0]
    if name in like and like[name].shape == shape:
        return torch.empty_like(like[name].detach(), dtype=dtype)
    return torch.empty(shape, dtype=dtype)


def _storage() -> tuple[Any, Any]:
    """torch.distributed.checkpoint's reader and writer of safetensors."""
    try:
        import safetensors  # noqa: F401
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
    except ImportError as error:
        raise MissingDependencyError(f"checkpoints of several processes need {error.name}: pip install safetensors") from None
    return HuggingFaceStorageReader, HuggingFaceStorageWriter


def _reason(error: BaseException) -> str:
    failures = getattr(error, "failures", {})
    first = next(iter(failures.values()), (error,))[0]
    return str(getattr(first, "strerror", None) or first)
