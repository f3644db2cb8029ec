"""Progress of downloads: a protocol, a silent implementation, and one that draws a bar on the terminal."""

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
    """The progress of one download at a time: `start`, any number of `advance` and `note`, `finish` (also after an error)."""

    def start(self, label: str, total: int | None) -> None:
        """A download of `total` bytes (None: unknown) begins."""

    def advance(self, done_bytes: int) -> None:
        """`done_bytes` in total have been downloaded. May be called from another thread."""

    def finish(self) -> None:
        """The download has ended."""

    def note(self, message: str) -> None:
        """A message for the user, such as a choice or a wait; may come before `start`."""


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
    """A bar on stderr with speed and time left; if that is not a terminal, one line per model."""

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
            # The name is untrusted: markup in it must not be interpreted, long lines must not be broken.
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
    """Call `start`, and `finish` at the end, also after an error."""
    progress.start(label, total)
    try:
        yield
    finally:
        progress.finish()


@contextmanager
def polling(progress: Progress, measure: Callable[[], int]) -> Iterator[None]:
    """Report `measure()` from a thread while the body runs: the size on disk of what pip or huggingface_hub downloads."""
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
    """Bytes in kB, MB or GB.

    >>> megabytes(98_362_432), megabytes(7_300_000_000), megabytes(1200)
    ('98.4 MB', '7.30 GB', '1.2 kB')
    """
    if size >= 10**9:
        return f"{size / 10**9:.2f} GB"
    return f"{size / 10**6:.1f} MB" if size >= 10**5 else f"{size / 10**3:.1f} kB"
