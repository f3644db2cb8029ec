"""Who is told how a run goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ordito.train.loop import Trainer
    from ordito.train.run import Result


class Listener(Protocol):
    """Told of a run as it goes."""

    def says(self, message: str) -> None:
        """What is being done, in a clause."""

    def begins(self, trainer: Trainer) -> None:
        """The first step is about to be made."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """The numbers of a step."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """What the model writes by now."""

    def ends(self, result: Result) -> None:
        """The run is over, or has stopped."""


class Quiet:
    """Says nothing."""

    def says(self, message: str) -> None:
        """Nothing."""

    def begins(self, trainer: Trainer) -> None:
        """Nothing."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Nothing."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """Nothing."""

    def ends(self, result: Result) -> None:
        """Nothing."""
