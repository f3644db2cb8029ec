"""Free memory, and the C library's reuse of freed memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ordito.cgroups import ROOT, groups

_MEMINFO = Path("/proc/meminfo")


def free_memory(root: Path = ROOT, meminfo: Path = _MEMINFO) -> int:
    """Bytes that this process can still allocate: the system's available memory, but no more than the limits of cgroups."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *(left for group in groups("memory", root) if (left := _left(group)) is not None)])


def _left(group: Path) -> int | None:
    """Bytes left below a cgroup's limit (version 2 or 1), or None without a limit. The page cache counts as free."""
    for limit, used, files in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = ((group / name).read_text().strip() for name in (limit, used))
            cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines()).get(files, "0")
        except (OSError, ValueError):
            continue
        return None if most == "max" else max(0, int(most) - int(taken) + int(cached))
    return None


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next allocations, instead of returning it to the system.

    A training step allocates the same tensors as the one before. If the system has to zero their pages each time, a step of a
    small model takes a fifth longer. Blocks above 32 MiB are still returned: kept, they would be split up, and new ones would
    have to be allocated. Does nothing with another C library.
    """
    trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, -1)  # never
        mallopt(mmap_threshold, 1 << 25)  # the largest value that glibc accepts
