"""The number of threads to start."""

from __future__ import annotations

import os
from pathlib import Path

from ordito.cgroups import ROOT, groups

_CPUS = Path("/sys/devices/system/cpu")


def usable_threads(root: Path = ROOT, cpus: Path = _CPUS) -> int:
    """The number of physical cores on which this process may run, but no more than the CPU quota of its cgroups."""
    bound = getattr(os, "sched_getaffinity", None)
    allowed = bound(0) if bound else range(os.cpu_count() or 1)
    cores = len({_siblings(cpu, cpus) for cpu in allowed})
    granted = quota(root)
    return max(1, min(cores, int(granted) if granted else cores))


def _siblings(cpu: int, cpus: Path) -> str:
    """A key of the core of the logical CPU `cpu`: the list of its hardware threads, or `cpu` itself if that is unknown."""
    try:
        return (cpus / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def quota(root: Path = ROOT) -> float | None:
    """The CPU quota, in cores, of the process's cgroup and its ancestors (version 2 or 1); None without a limit."""
    return min((cores for group in groups("cpu", root) if (cores := _granted(group)) is not None), default=None)


def _granted(group: Path) -> float | None:
    try:
        granted, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            granted, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        except OSError:
            return None
    return None if granted in ("max", "-1") else int(granted) / int(period)
