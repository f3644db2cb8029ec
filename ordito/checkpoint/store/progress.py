"""What a caller sees while bytes travel: a small protocol, a silent one, and one that draws on the terminal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

POLL_SECONDS = 0.1


class Progress(Protocol):
    """Follows one model at a time: start, any number of advances and notes, finish (also after a failure)."""

    def start(self, label: str, total: int | None) -> None:
        """A transfer begins; `total` is its size in bytes where that is known."""

    def advance(self, done_bytes: int) -> None:
        """How many bytes are there by now: a level, not a step. May be called from another thread."""

    def finish(self) -> None:
        """The transfer is over."""

    def note(self, message: str) -> None:
        """Something was chosen or waited for, which the user should know; may come before `start`."""


class Silent:
    """Shows nothing."""

    def start(self, label: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, done_bytes: int) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""


class RichProgress:
    """A bar on stderr with speed and time left; away from a terminal one line per model and nothing else."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.task: Any = None

    @cached_property
    def console(self) -> Console:
        """Standard error, once there is something to say."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def start(self, label: str, total: int | None) -> None:
        """Draw the bar, or print the one line."""
        if not self.console.is_terminal:
            of_size = f" ({megabytes(total)})" if total else ""
            # The name comes from outside: markup in it must not be obeyed, long lines must not be broken.
            self.console.print(f"Downloading {label}{of_size}", markup=False, soft_wrap=True)
            return
        from rich import progress as rich
        from rich.markup import escape

        self.bar = rich.Progress(
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.DownloadColumn(),
            rich.TransferSpeedColumn(),
            rich.TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.bar.add_task(escape(label), total=total)
        self.bar.start()

    def advance(self, done_bytes: int) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done_bytes)

    def finish(self) -> None:
        """Leave the bar on the screen as it stands."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def note(self, message: str) -> None:
        """One line above the bar, on a terminal only."""
        if self.console.is_terminal:
            self.console.print(message, markup=False)


@contextmanager
def transfer(progress: Progress, label: str, total: int | None) -> Iterator[None]:
    """Start, and finish whatever happens."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()


@contextmanager
def polling(progress: Progress, measure: Callable[[], int]) -> Iterator[None]:
    """Report `measure()` while the body runs: what pip and the hub write grows on disk, and disk can be read."""
    over = threading.Event()

    def report() -> None:
        while not over.wait(POLL_SECONDS):
            progress.advance(measure())

    watcher = threading.Thread(target=report, name="ordito-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def megabytes(size: int) -> str:
    """A size for people.

    >>> megabytes(98_362_432), megabytes(7_300_000_000), megabytes(1200)
    ('98.4 MB', '7.30 GB', '1.2 kB')
    """
    if size >= 10**9:
        return f"{size / 10**9:.2f} GB"
    return f"{size / 10**6:.1f} MB" if size >= 10**5 else f"{size / 10**3:.1f} kB"
