"""The processes of a run: one, or those that `torchrun` started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this one writes and speaks for all."""
        return self.rank == 0

    def share(self, items: list) -> list:  # type: ignore[type-arg]
        """The items of a step that are this process's own."""
        return items[self.rank :: self.size]

    def sums(self, numbers: Mapping[str, float]) -> dict[str, float]:
        """Each number, summed over all processes."""
        return dict(numbers)
