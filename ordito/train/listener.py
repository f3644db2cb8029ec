"""Callbacks of a run: progress for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ordito.train.loop import Trainer
    from ordito.train.run import Result


class Listener(Protocol):
    """Callbacks of a run, as transformers' TrainerCallback."""

    def says(self, message: str) -> None:
        """What the run is doing, in a clause."""

    def begins(self, trainer: Trainer) -> None:
        """Before the first step."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """After each step, with its metrics."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """After each sample: the model's answer to a prompt."""

    def ends(self, result: Result) -> None:
        """At the end of a run that is finished or stopped."""


class Quiet:
    """Ignores all callbacks."""

    def says(self, message: str) -> None:
        """Do nothing."""

    def begins(self, trainer: Trainer) -> None:
        """Do nothing."""

    def stepped(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def sampled(self, step: int, prompt: str, text: str) -> None:
        """Do nothing."""

    def ends(self, result: Result) -> None:
        """Do nothing."""
