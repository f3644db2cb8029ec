"""The progress of a training run: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ordito.cli.console import say

if TYPE_CHECKING:
    from ordito.train.loop import Trainer
    from ordito.train.run import Result

_SECONDS_BETWEEN_LINES = 10


class Messages:
    """A listener of a run that prints its messages, and nothing about steps."""

    def says(self, message: str) -> None:
        """Print a message."""
        say(message)

    def begins(self, trainer: Trainer) -> None:
        """Nothing."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """Print a sample of the model's text."""
        say(f"step {step}, {prompt!r}: {text}")

    def ends(self, result: Result) -> None:
        """Nothing."""


class Progress(Messages):
    """A bar with loss, tokens per second, share of the machine's peak and time left; without a terminal, lines of the same."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = 0.0
        self._total = self._first = 0
        self._speed: list[float] = []

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def begins(self, trainer: Trainer) -> None:
        """Measure the machine's peak, and open the bar."""
        from ordito.train.mfu import Effort

        self._total, self._first = trainer.total, trainer.done
        self._effort = Effort.of(trainer)
        say(self._effort.said)
        if sys.stderr.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("", total=trainer.total, completed=trainer.done, numbers="")
            self._bar.start()

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Advance the bar, or print a line every 10 seconds."""
        self._speed = [*self._speed[-19:], record["seconds"]]
        speed, share = record["tokens_per_second"], self._effort.share(record)
        numbers = f"loss {record['loss']:.4f}  {speed:,.0f} tokens/s  {share:.0%} of peak"
        if "eval_loss" in record:
            say(f"step {record['step']}: eval_loss {record['eval_loss']:.4f}")
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], numbers=numbers)
            return
        now, last = time.monotonic(), record["step"] == self._total
        if now - self._last >= _SECONDS_BETWEEN_LINES or last or record["step"] == self._first + 1:
            self._last = now
            left = (self._total - record["step"]) * sum(self._speed) / len(self._speed)
            say(f"step {record['step']}/{self._total}  {numbers}  {_duration(left)} left")


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
