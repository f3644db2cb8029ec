"""What slows a machine down, from Linux's counters: stolen and throttled processor time, swapping, other programs."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ordito.cgroups import ROOT, groups

_PROC = Path("/proc")
_WATCH = 0.5  # seconds


@dataclass(frozen=True)
class Counters:
    """Counters of the system since its start: ticks of all cores, idle and stolen ones, pages swapped in, and nanoseconds in
    which the cgroups of this process were throttled."""

    ticks: int = 0
    idle: int = 0
    stolen: int = 0
    swapped: int = 0
    throttled: int = 0

    @staticmethod
    def now(proc: Path = _PROC, cgroup: Path = ROOT) -> Counters:
        """The counters as they are now; zeros where the system does not have them."""
        try:
            ticks = [int(number) for number in (proc / "stat").read_text().splitlines()[0].split()[1:9]]
        except (OSError, ValueError, IndexError):
            ticks = [0] * 8
        pages, waits = _pairs(proc / "vmstat"), [_pairs(group / "cpu.stat") for group in groups("cpu", cgroup)]
        throttled = sum(1000 * wait.get("throttled_usec", 0) + wait.get("throttled_time", 0) for wait in waits)  # cgroup v2, v1
        return Counters(sum(ticks), ticks[3] + ticks[4], ticks[7], pages.get("pswpin", 0), throttled)


def _pairs(path: Path) -> dict[str, int]:
    try:
        return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}
    except (OSError, ValueError):
        return {}


def complaints(before: Counters, after: Counters, *, kernels: str, threads: int, bound: int, free: int) -> list[str]:
    """A sentence for each thing that makes models slower than they could be here.

    `bound` is the number of processors that this process may run on, `free` the bytes of free memory.
    """
    found = []
    ticks = max(after.ticks - before.ticks, 1)
    stolen = (after.stolen - before.stolen) / ticks
    busy = 1 - stolen - (after.idle - before.idle) / ticks
    if kernels == "reference":
        found.append("there are no fast kernels for this processor: plain C++ is used, which is many times slower")
    if stolen > 0.05:
        found.append(f"{100 * stolen:.0f} % of the processors' time goes to other virtual machines")
    if busy > 0.25:
        found.append(f"other programs keep {100 * busy:.0f} % of the processors busy, which slows models down: stop them")
    if after.throttled > before.throttled:
        found.append("the cgroup is throttled: its limit of processor time is below the number of threads; use fewer threads")
    if after.swapped > before.swapped:
        found.append("the machine is swapping: close programs, or use a smaller model")
    if threads < bound:
        found.append(
            f"{threads} threads on {bound} processors: two of one core share its arithmetic, or the cgroup allows no more"
        )
    if free < 1 << 30:
        found.append(f"only {free / 2**20:.0f} MiB of memory are free")
    return found


def watch(seconds: float = _WATCH) -> tuple[Counters, Counters]:
    """The counters before and after so many seconds in which this process sleeps."""
    before = Counters.now()
    time.sleep(seconds)
    return before, Counters.now()


def bound_processors() -> int:
    """Processors that this process may run on."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
