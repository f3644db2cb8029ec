"""The machine: its cores, the memory that is free, how fast it reads memory and multiplies matrices."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ordito.threads import usable_threads

_BUFFER = 256 << 20  # bytes: far more than any cache holds
_MATRIX = 2048
_TIMES = 7

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Machine:
    """What a model has to live with: `memory` (bytes that are free), `bandwidth` (bytes read a second), `flops` (a second).

    `flops` are those of products of fp32 matrices, or of the arithmetic that a runtime has, with all `cores`.
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
        flops=flops if flops is not None else measured_flops(),
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
    """Bytes that all cores together read from memory in a second: the best of several passes over a large array."""
    data = np.ones(_BUFFER // 4, np.float32)
    parts = np.array_split(data, threads)
    return data.nbytes / min(_together([(np.dot, (part, part)) for part in parts]) for _ in range(_TIMES))


def measured_flops() -> float:
    """Floating-point operations a second of the product of two fp32 matrices: the best of several."""
    matrix = np.ones((_MATRIX, _MATRIX), np.float32)
    return 2 * _MATRIX**3 / min(_together([(np.matmul, (matrix, matrix))]) for _ in range(_TIMES))


def _together(calls: list[tuple[Any, tuple[Any, ...]]]) -> float:
    """Seconds until all calls, each in a thread, are done."""
    threads = [threading.Thread(target=function, args=arguments) for function, arguments in calls]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
