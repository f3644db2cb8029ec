"""Which weights differ between two checkpoints of the same architecture, and by how much."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ordito.accounting import Table
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import CheckpointError


@dataclass(frozen=True)
class Change:
    """The change of some weights: the squared L2 norms of the `old` ones and of the `difference`.

    They are not finite if some of the weights are not.
    """

    name: str
    old: float
    difference: float

    @property
    def relative(self) -> float:
        """|new - old| / |old|; infinite if all old weights are 0."""
        if not self.difference:
            return 0.0
        return math.sqrt(self.difference / self.old) if self.old else math.inf

    @property
    def damaged(self) -> bool:
        """Whether some of the weights are infinite or NaN."""
        return not (math.isfinite(self.old) and math.isfinite(self.difference))


def comparable(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether both have the same tensors in the same shapes."""
    return one.spec.tensors() == other.spec.tensors()


def changes(old: Checkpoint, new: Checkpoint) -> Iterator[Change]:
    """The change of each tensor, by canonical name, in fp32. One tensor at a time is in memory.

    Raises `CheckpointError` if the two do not have the same tensors in the same shapes.
    """
    if not comparable(old, new):
        raise CheckpointError(f"{old.path} and {new.path}: the shapes differ, expected two checkpoints of one shape")
    for name, before in old:
        after = new.read(name)
        yield Change(name, _square(before), 0.0 if np.array_equal(before, after, equal_nan=True) else _square(after - before))


def _square(array: np.ndarray) -> float:
    flat = array.reshape(-1)
    return float(np.dot(flat, flat))


def by_layer(found: Iterable[Change]) -> Table:
    """A table of the changes of each block of each layer, in percent of its norm; `=` where no bit changed."""
    cells: dict[str, dict[str, Change]] = {}
    for change in found:
        place, role = _place(change.name)
        so_far = cells.setdefault(place, {}).get(role, Change(role, 0.0, 0.0))
        cells[place][role] = Change(role, so_far.old + change.old, so_far.difference + change.difference)
    roles = list(dict.fromkeys(role for of_place in cells.values() for role in of_place))
    rows = [(place, *(shown(of[role]) if role in of else "" for role in roles)) for place, of in cells.items()]
    return Table("Weights: |new - old| / |old|", ("", *(f">{role}" for role in roles)), tuple(rows))


def shown(change: Change) -> str:
    """A change in percent of the norm, `=` for none, `new` if the old weights are 0."""
    if not change.difference:
        return "="
    if change.damaged:
        return "not finite"
    return "new" if math.isinf(change.relative) else f"{100 * change.relative:.3g} %"


def to_dict(found: Iterable[Change]) -> dict[str, Any]:
    """The changes as JSON values: tensor -> |new - old| / |old|, null if that is infinite or NaN."""
    return {change.name: change.relative if math.isfinite(change.relative) else None for change in found}


def _place(name: str) -> tuple[str, str]:
    """The row and the column of a tensor in the table: its layer, and its block there."""
    parts = name.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if number is None:
        return "outside of layers", parts[0]
    stack = "" if parts[0] == "layers" else f"{parts[0]} "
    return f"{stack}layer {parts[number]}", parts[number + 1]
