"""The machine: its cores, the memory that is free, how fast it reads memory and multiplies matrices."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ordito import _core
from ordito.threads import usable_threads

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """What a model has to live with: `memory` (bytes that are free), `bandwidth` (bytes read a second), `flops` (a second).

    `flops` are those of products of matrices, with all `cores`, in the arithmetic that the runtime has.
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
    """The machine that this runs on, measured now (about a second), but for what is given."""
    n = threads or usable_threads()
    return Machine(
        cores=n,
        memory=memory if memory is not None else free_memory(),
        bandwidth=bandwidth if bandwidth is not None else measured_bandwidth(n),
        flops=flops if flops is not None else measured_flops(n),
    )


def free_memory(root: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int:
    """Bytes that a new process can have: what the system says is available, and no more than the cgroup leaves."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    left = _left(root)
    return free if left is None else min(free, left)


def _left(root: Path) -> int | None:
    """What the cgroup's limit leaves, version 2 or 1; None without a limit. Cached files are given back when asked for."""
    for limit, used, stat, files in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        try:
            most, taken = ((root / name).read_text().strip() for name in (limit, used))
            cached = dict(line.split() for line in (root / stat).read_text().splitlines()).get(files, "0")
        except (OSError, ValueError):
            continue
        return None if most == "max" else max(0, int(most) - int(taken) + int(cached))
    return None


def measured_bandwidth(threads: int) -> float:
    """Bytes that all cores together read from memory in a second, as the native runtime reads: the best of several passes."""
    return _core.Machine(threads, None, "float32").bandwidth()


def measured_flops(threads: int) -> float:
    """Operations a second of products of weights in few bits, as the native runtime takes them unless told otherwise."""
    return 2 * _core.Machine(threads, None, "int16").peak()
