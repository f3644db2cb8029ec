"""The machine: its cores, the memory that is free, how fast it reads memory and multiplies matrices."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ordito import _core
from ordito.memory import free_memory
from ordito.threads import usable_threads


@dataclass(frozen=True)
class Machine:
    """The figures of a machine: free `memory` in bytes, memory `bandwidth` in bytes per second, and `flops` per second.

    `flops` are those of matrix products on all `cores`, in the arithmetic of the runtime.
    """

    cores: int
    memory: int
    bandwidth: float
    flops: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def this_machine(
    memory: int | None = None, bandwidth: float | None = None, flops: float | None = None, threads: int | None = None
) -> Machine:
    """This machine; figures that are not given are measured now, in about a second."""
    n = threads or usable_threads()
    return Machine(
        cores=n,
        memory=memory if memory is not None else free_memory(),
        bandwidth=bandwidth if bandwidth is not None else measured_bandwidth(n),
        flops=flops if flops is not None else measured_flops(n),
    )


def measured_bandwidth(threads: int) -> float:
    """Bytes that all cores together read from memory in a second, as the native runtime reads: the best of several passes."""
    return _core.Machine(threads, None, "float32").bandwidth()


def measured_flops(threads: int) -> float:
    """Operations per second of matrix products with quantized weights, in the default arithmetic of the native runtime."""
    return 2 * _core.Machine(threads, None, "int12").peak()
