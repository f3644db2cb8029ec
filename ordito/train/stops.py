"""Stopping a run before its last step: by a signal, by a file, or by time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STOP_FILE = "STOP"
"""A run whose folder holds a file of this name saves and stops."""


class Stops:
    """Requests to stop: recorded when they come, and acted on between two steps, so that files are complete."""

    def __init__(self, folder: Path, minutes: float | None) -> None:
        self.file = folder / STOP_FILE
        self.ends = None if minutes is None else time.monotonic() + 60 * minutes
        self.signalled: str | None = None

    def reason(self) -> str | None:
        """Why the run should stop now, in a clause; None if it should go on."""
        if self.signalled is not None:
            return f"it was asked to by {self.signalled}"
        if self.file.exists():
            return f"the file {self.file} is there"
        if self.ends is not None and time.monotonic() >= self.ends:
            return "its time (max_time) is over"
        return None

    @contextmanager
    def listening(self) -> Iterator[Stops]:
        """Handle SIGINT and SIGTERM in this context (in the main thread only); a second SIGINT interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return

        def note(number: int, frame: object) -> None:
            if self.signalled is not None and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.signalled = signal.Signals(number).name

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
