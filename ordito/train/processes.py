"""The processes of a run: one, or those that `torchrun` started, in a mesh of data, experts and tensors."""

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
"""The axes of the mesh. Processes along `data` see other rows; those along the others see the same rows, and each computes a
part of what is made of them."""

E = TypeVar("E", bound=OrditoError)


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is; the same along the axis of data alone.

    `mesh` is that of torch.distributed, (data, expert, tensor); a process that is alone has none.
    """

    rank: int = 0
    size: int = 1
    data_rank: int = 0
    data_size: int = 1
    mesh: DeviceMesh | None = None

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, items: list) -> list:  # type: ignore[type-arg]
        """The items of a step that are this process's own, those along the other axes having the same."""
        return items[self.data_rank :: self.data_size]

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number, summed over the shares of the data. All processes must come with the same names in the same order."""
        if self.mesh is None or self.data_size == 1:
            return dict(numbers)
        return dict(zip(numbers, self._reduced(list(numbers.values()), "SUM", self.mesh.get_group(DATA)), strict=True))

    def sum_along(self, axes: Iterable[str], number: float) -> float:
        """A number, summed over axes of the mesh in turn."""
        assert self.mesh is not None, "a process that is alone has no axes"
        for axis in axes:
            (number,) = self._reduced([number], "SUM", self.mesh.get_group(axis))
        return number

    def most(self, number: int) -> int:
        """The largest of the numbers of all processes."""
        return number if self.mesh is None else int(self._reduced([number], "MAX", None)[0])

    def agreed(self, reason: str | None) -> str | None:
        """The reason to stop of the first process that has one, for all of them."""
        if self.mesh is None or not self.most(reason is not None):
            return reason
        return next(found for found in self._of_all(reason) if found is not None)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end until all processes are here; if one failed, all raise what the first of those raised.

        What is done meanwhile must not wait for other processes.
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
        found = self._of_all(None if failure is None else (type(failure), str(failure)))
        for failed in found:
            if failed is not None:
                kind, message = failed
                raise everywhere(kind(message)) from None

    def _of_all(self, thing: Any) -> list[Any]:
        import torch.distributed as dist

        found = [None] * self.size
        dist.all_gather_object(found, thing)
        return found

    def _reduced(self, numbers: list[float], how: str, group: Any) -> list[float]:
        import torch
        import torch.distributed as dist

        # In double precision: counts of tokens are whole numbers that fp32 would round.
        tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(tensor, getattr(dist.ReduceOp, how), group)
        reduced: list[float] = tensor.tolist()
        return reduced


def started() -> tuple[int, int]:
    """This process's rank and their number, as `torchrun` says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def everywhere(error: E) -> E:
    """An error that every process raises at once, so that one of them may say it for all."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def said_elsewhere(error: OrditoError) -> bool:
    """Whether another process says this error already."""
    return started()[0] > 0 and getattr(error, "everywhere", False)


@contextmanager
def joined(settings: ParallelSettings) -> Iterator[Processes]:
    """The processes of a run while it lasts. Raises `ConfigError` if their number does not fit the settings.

    They speak over gloo: what trains here trains on CPUs. A process group that is there already is used, and left. Where one
    process has ended, those that wait for it raise an `OrditoError`.
    """
    rank, size = started()
    apart = settings.expert * settings.tensor
    if size % apart:
        raise everywhere(
            ConfigError(
                f"parallel: expert={settings.expert} times tensor={settings.tensor} needs a multiple of {apart} processes, got "
                f"{size}: torchrun --nproc-per-node {apart} -m ordito train ..., or set both to 1"
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
        shape = (size // apart, settings.expert, settings.tensor)
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=(DATA, EXPERT, TENSOR))
        yield Processes(rank, size, mesh.get_local_rank(DATA), shape[0], mesh)
    except RuntimeError as error:
        if "by peer" not in str(error):  # what gloo says of a connection that is closed or reset
            raise
        raise OrditoError(
            f"process {rank} waits for another that has ended: what ended it stands there, or is said by torchrun; then go on "
            "with --resume"
        ) from None
    finally:
        if ours:
            dist.destroy_process_group()
