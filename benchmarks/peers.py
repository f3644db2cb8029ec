"""Shared by the comparisons with other programs: measurements in turn, medians, output."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One comparison. `ratio` is ours over the peer's where more is better, the peer's over ours where less is."""

    what: str
    ours: float
    peer: float
    ratio: float
    limit: float | None
    unit: str


def in_turn(ours: Callable[[], float], peer: Callable[[], float], times: int) -> tuple[float, float]:
    """(ours, peer): medians of `times` measurements of each, taken alternately, so that a busy moment affects both."""
    pairs = [(ours(), peer()) for _ in range(times)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def faster(what: str, ours: float, peer: float, limit: float | None = None, unit: str = "tokens/s") -> Figure:
    return Figure(what, ours, peer, ours / peer, limit, unit)


def smaller(what: str, ours: float, peer: float, unit: str) -> Figure:
    return Figure(what, ours, peer, peer / ours, None, unit)


def report(figures: Iterable[Figure], as_json: bool) -> None:
    """Print one line per figure, as soon as it is measured."""
    if not as_json:
        print(f"{'what':<58} {'ours':>9} {'peer':>9} {'ratio':>6} {'limit':>9}  unit", flush=True)
    for figure in figures:
        if as_json:
            print(json.dumps(asdict(figure)), flush=True)
            continue
        limit = f"{figure.limit:9.1f}" if figure.limit else " " * 9
        print(f"{figure.what:<58} {figure.ours:9.2f} {figure.peer:9.2f} {figure.ratio:6.2f} {limit}  {figure.unit}", flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object per figure")
    parser.add_argument("--times", type=int, default=3, help="measurements of each; their median counts")
    return parser


def peak(command: list[str]) -> int:
    """Peak memory of a command in bytes (VmHWM, Linux), polled while it runs."""
    most = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        with suppress(OSError, IndexError):  # it may end meanwhile
            status = Path(f"/proc/{process.pid}/status").read_text()
            most = max(most, 1024 * int(status.split("VmHWM:")[1].split()[0]))
        time.sleep(0.005)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[:3])} ... ended with {process.returncode}")
    return most
