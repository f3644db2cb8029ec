"""How much memory is free."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from ordito.cgroups import ROOT, groups

_MEMINFO = Path("/proc/meminfo")


def free_memory(root: Path = ROOT, meminfo: Path = _MEMINFO) -> int:
    """Bytes that a new process can have: what the system says is available, and no more than its cgroups leave."""
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([free, *(left for group in groups("memory", root) if (left := _left(group)) is not None)])


def _left(group: Path) -> int | None:
    """What a cgroup's limit leaves, version 2 or 1; None without a limit. Cached files are given back when asked for."""
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
    """Have the C library keep what is freed for what is asked for next, instead of giving it back to the system.

    A training step asks for the same tensors as the one before; when the system has to clear their pages each time, a step of a
    small model takes a fifth longer. What is larger than 32 MiB still goes back: kept, it would be cut up, and asked for anew.
    Where the C library is not glibc, nothing happens.
    """
    trim_threshold, mmap_threshold = -1, -3  # glibc's malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, -1)  # never
        mallopt(mmap_threshold, 1 << 25)  # the most that it can be
