"""Architectures side by side: their facts aligned, and which of them differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ordito.accounting import Table
from ordito.comparing.facts import NONE, Fact, Place, facts
from ordito.errors import OrditoError
from ordito.spec import Spec, expect_spec
from ordito.units import plural

DIFFERS = "≠"


@dataclass(frozen=True)
class Row:
    """One fact and its value for each model (`-`: the model does not have it)."""

    section: str
    label: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the values are not all the same."""
        return len(set(self.values)) > 1


@dataclass(frozen=True)
class Comparison:
    """The names of the models, and all of their facts in the order of the blocks."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def differences(self) -> tuple[Row, ...]:
        """The rows in which the models differ."""
        return tuple(row for row in self.rows if row.differs)

    def table(self, *, only_differences: bool = False) -> Table:
        """A column for each model; what differs is marked."""
        cells, section = [], None
        for row in self.differences if only_differences else self.rows:
            shown = row.section if row.section != section else ""
            cells.append((DIFFERS if row.differs else "", shown, row.label, *row.values))
            section = row.section
        return Table("", ("", "", "", *self.names), tuple(cells))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {"section": row.section, "label": row.label, "values": list(row.values), "differs": row.differs}
            for row in self.rows
        ]
        return {"models": list(self.names), "rows": rows}

    def _repr_html_(self) -> str:
        return self.table().html()


def compare(*specs: Spec, names: tuple[str, ...] | None = None) -> Comparison:
    """Lay two or more specs side by side. `names` are those of the columns; the architectures' unless given.

    Raises `OrditoError` if there are fewer than two, for another number of names, and for anything but specs.
    """
    if len(specs) < 2:
        raise OrditoError(f"compare: got {plural(len(specs), 'model')}, expected at least two")
    for spec in specs:
        expect_spec(spec, "compare")
    if names is not None and len(names) != len(specs):
        raise OrditoError(f"compare: got {len(names)} names for {len(specs)} models, expected one for each")
    found = [facts(spec) for spec in specs]
    rows = []
    for place in _in_order(found):
        of_each = [facts.get(place, Fact(NONE, True)) for facts in found]
        if not all(fact.default for fact in of_each):
            rows.append(Row(*place, tuple(fact.value for fact in of_each)))
    return Comparison(names or tuple(spec.architecture for spec in specs), tuple(rows))


def _in_order(found: list[dict[Place, Fact]]) -> list[Place]:
    """The places of all models: one that only a later model has goes after its predecessor there, within its section."""
    order = list(found[0])
    for later in found[1:]:
        before: Place | None = None
        for place in later:
            if place not in order:
                order.insert(_after(order, before, place), place)
            before = place
    return order


def _after(order: list[Place], before: Place | None, place: Place) -> int:
    of_section = [i for i, other in enumerate(order) if other.section == place.section]
    if of_section and (before is None or before.section != place.section):
        return of_section[0]
    if before is None:
        return 0
    following = order.index(before) + 1
    if before.section == place.section:
        return following
    return max(i for i, other in enumerate(order) if other.section == before.section) + 1
