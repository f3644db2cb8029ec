"""The processes of a run: one, or those that `torchrun` started, in a device mesh (data, expert, tensor)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ordito.errors import ConfigError, OrditoError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

    from ordito.train.settings import ParallelSettings

DATA, EXPERT, TENSOR = "data", "expert", "tensor"
"""The axes of the mesh. Processes along `data` read different rows; those along the other axes read the same rows, and each
computes a part of every layer."""

E = TypeVar("E", bound=OrditoError)


@dataclass(frozen=True)
class Processes:
    """The rank of this process and the number of processes, of all and along the data axis.

    `mesh` is torch.distributed's, (data, expert, tensor); None for a single process.
    """

    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes files and reports to the user."""
        return self.rank == 0

    def share(self, items: list) -> list:  # type: ignore[type-arg]
        """This process's share of the items of a step; processes along the other axes get the same share."""
        return items[self.data_rank :: self.data_size]

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number, summed along the data axis. All processes must give the same names in the same order."""
        if self.mesh is None or self.data_size == 1:
            return dict(numbers)
        return dict(zip(numbers, self._all_reduced(list(numbers.values()), "SUM", self.mesh.get_group(DATA)), strict=True))

    def sum_along(self, axes: Iterable[str], number: float) -> float:
        """A number, summed over some axes of the mesh."""
        assert self.mesh is not None, "a single process has no mesh"
        for axis in axes:
            (number,) = self._all_reduced([number], "SUM", self.mesh.get_group(axis))
        return number

    def most(self, number: int) -> int:
        """The maximum of the numbers of all processes."""
        return number if self.mesh is None else int(self._all_reduced([number], "MAX", None)[0])

    def agreed(self, reason: str | None) -> str | None:
        """The reason to stop of the first process that has one, returned in all processes."""
        if self.mesh is None or not self.most(reason is not None):
            return reason
        return next(found for found in self._gathered(reason) if found is not None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A barrier at the end of the context; if processes failed in it, all raise the error of the first of them.

        Code in the context must not use collectives.
        """
        failure: OrditoError | None = None
        try:
            yield
        except OrditoError as error:
            if self.mesh is None:
                raise
            failure = error
        if self.mesh is None:
            return
        found = self._gathered(None if failure is None else (type(failure), str(failure)))
        for failed in found:
            if failed is not None:
                kind, message = failed
                raise everywhere(kind(message)) from None

    def _gathered(self, thing: Any) -> list[Any]:
        import torch.distributed as dist

        found = [None] * self.size
        dist.all_gather_object(found, thing)
        return found

    def _all_reduced(self, numbers: list[float], how: str, group: Any) -> list[float]:
        import torch
        import torch.distributed as dist

        # fp64, because fp32 would round large counts of tokens.
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, how), group)
        reduced: list[float] = tensor.tolist()
        return reduced


def started() -> tuple[int, int]:
    """Rank and world size from the environment of `torchrun`; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def everywhere(error: E) -> E:
    """Mark an error that all processes raise together, so that only one of them prints it."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def said_elsewhere(error: OrditoError) -> bool:
    """Whether this process leaves it to rank 0 to print this error."""
    return started()[0] > 0 and getattr(error, "everywhere", False)


@contextmanager
def joined(settings: ParallelSettings) -> Iterator[Processes]:
    """The processes of a run, until the context ends. Raises `ConfigError` if their number does not fit the settings.

    The backend is gloo, for CPUs. An existing process group is used, and not destroyed. If a process has ended, those that
    wait for it raise an `OrditoError`.
    """
    rank, size = started()
    group = settings.expert * settings.tensor
    if size % group:
        raise everywhere(
            ConfigError(
                f"parallel: expert={settings.expert} times tensor={settings.tensor} needs a multiple of {group} processes, got "
                f"{size}: torchrun --nproc-per-node {group} -m ordito train ..., or set both to 1"
            )
        )
    if size == 1:
        yield Processes()
        return
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("gloo")
    try:
        shape = (size // group, settings.expert, settings.tensor)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=(DATA, EXPERT, TENSOR))
        yield Processes(rank, size, mesh.get_local_rank(DATA), shape[0], mesh)
    except RuntimeError as error:
        if "by peer" not in str(error):  # gloo's message for a closed or reset connection
            raise
        raise OrditoError(
            f"process {rank} waits for another that has ended: see its output or that of torchrun for the reason, then "
            "go on with --resume"
        ) from None
    finally:
        if ours:
            dist.destroy_process_group()
