"""Many strings in little memory, and the places of strings in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from ordito._core import Strings

__all__ = ["Places", "Strings"]

Sequence.register(Strings)


class Places(Mapping[str, int]):
    """String -> its place among `strings`, of equal ones the first. Those at the places `without` are left out."""

    def __init__(self, strings: Strings, without: Set[int] = frozenset()) -> None:
        self.strings, self.without = strings, without

    def get(self, string: str, default: Any = None) -> Any:
        """The place of a string, or `default`, as for anything that is no string."""
        place = self.strings.find(string) if isinstance(string, str) else None
        return default if place is None or place in self.without else place

    def __contains__(self, string: object) -> bool:
        return self.get(string) is not None  # type: ignore[arg-type]

    def __getitem__(self, string: str) -> int:
        place: int | None = self.get(string)
        if place is None:
            raise KeyError(string)
        return place

    def __iter__(self) -> Iterator[str]:
        return (string for place, string in enumerate(self.strings) if self.get(string) == place)

    def __len__(self) -> int:
        return self.strings.distinct - sum(self.strings.find(self.strings[place]) == place for place in self.without)
