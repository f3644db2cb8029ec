"""A fact about a block: one setting and its value, as text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """A setting and its value. `new` says that the architecture it is compared with has another value, or none."""

    key: str
    value: str
    new: bool = False
