"""The error for an architecture that no family reads: it names the nearest family, and what that does not know."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from ordito.errors import ConfigError, OrditoError, did_you_mean
from ordito.families.family import GGUF, Family, Header, with_fusions
from ordito.families.naming import Names
from ordito.families.reader import IRRELEVANT, REQUIRED, Reader, shown
from ordito.spec import Spec

ADVICE = "CONTRIBUTING.md says how to add a family"
SHOWN = 8
"""Names that a message lists at most; of the others it gives the number."""


class UnknownArchitectureError(ConfigError):
    """An architecture that no family reads; the message names the nearest family and the keys that this does not know."""

    def __init__(self, where: str, label: str, known: Iterable[str], nearest: Nearest | None) -> None:
        self.text = f"{where} is {shown(label)}, which no family here reads{did_you_mean(label, known).rstrip('?')}"
        self.nearest = nearest
        if nearest is not None:
            self.text += f"; the nearest is {nearest.family.title} ({nearest.label})"
            unread = f", which does not know the keys {listed(nearest.unread)}"
            self.text += unread if nearest.unread else ", which knows all of its keys"
        super().__init__(f"{self.text}; {ADVICE}")

    def with_tensors(self, names: Iterable[str]) -> ConfigError:
        """The same error that also lists the tensors of the checkpoint (`names`) which the nearest family does not know."""
        if self.nearest is None or self.nearest.spec is None:
            return self
        unknown = unknown_tensors(self.nearest.spec, self.nearest.tables(self.nearest.spec), names)
        more = f", and has no place for the tensors {listed(unknown)}" if unknown else ", and has a place for every tensor"
        return ConfigError(f"{self.text}{more}; {ADVICE}")


@dataclass(frozen=True)
class Nearest:
    """The family whose `label` reads most of a configuration: the keys left `unread`, and the spec, if it gave one."""

    family: Family
    label: str
    unread: list[str]
    spec: Spec | None
    tables: Callable[[Spec], tuple[Names, ...]]


class _Lenient(Reader):
    """A reader for which an unknown value of a choice, such as an activation, is no error: its key counts as unread."""

    def choice(self, key: str, options: Mapping[str, Any], default: Any = REQUIRED) -> Any:
        value = self.values.get(key, default)
        if isinstance(value, str) and value in options:
            return super().choice(key, options, default)
        self.seen.discard(key)
        return next(iter(options.values()))


Trial = tuple[Family, str, Reader, Callable[[], Spec], Callable[[Spec], tuple[Names, ...]]]
"""A family, one of its labels, the reader of a configuration, what makes a spec of that, and tables of names for the spec."""


def nearest_of_config(config: Mapping[str, Any], families: Iterable[Family]) -> Nearest | None:
    """The nearest family of a config.json. `architectures` names a class that none of them knows, so it is left out."""
    values = {key: value for key, value in config.items() if key != "architectures"}

    def trial(family: Family, label: str) -> Trial:
        reader = _Lenient({**values, "model_type": label}, "config.json")
        return family, label, reader, lambda: family.spec_from_config(reader), lambda s: (family.names(s), *family.layouts(s))

    given = {key for key in config if not key.startswith("_")} - IRRELEVANT
    return _nearest(given, (trial(family, label) for family in families for label in family.model_types))


def nearest_of_header(header: Header, families: Iterable[Family]) -> Nearest | None:
    """The nearest family of a GGUF file, by its metadata and its tensors."""
    families, values = list(families), header.reader().values
    owners = {label: family for family in families for label in family.model_types}

    def trial(family: Family, gguf: GGUF, label: str) -> Trial:
        reader = Reader(values, "GGUF metadata")
        tried = _Read({**header.metadata, "general.architecture": label}, header.shapes, header.values, reader)

        def tables(spec: Spec) -> tuple[Names, ...]:
            own = owners[spec.architecture].gguf or gguf  # one GGUF label may cover several families
            return tuple(with_fusions(names, header.shapes) for names in (own.names(spec), *own.layouts(spec)))

        return family, label, reader, lambda: gguf.spec_from_header(tried), tables

    trials = (trial(family, family.gguf, label) for family in families if family.gguf for label in family.gguf.architectures)
    return _nearest(set(values), trials, header.shapes)


@dataclass(frozen=True)
class _Read(Header):
    """A header whose metadata are read by one reader."""

    one: Reader

    def reader(self) -> Reader:
        return self.one


def _nearest(given: Set[str], trials: Iterable[Trial], tensors: Iterable[str] = ()) -> Nearest | None:
    """The trial in which most of the keys `given` are read, less the kinds of tensors that only it or only the file has.

    Families that give a spec (by more than 3 keys) come before those that raise an error. Of equals, that with the simplest
    spec is taken, or, without `tensors`, that which asks for fewest keys.
    """
    best: tuple[tuple[bool, int, int], Nearest | None] = ((False, 0, 0), None)
    for family, label, reader, read_spec, tables in trials:
        spec = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(OrditoError):
                spec = read_spec()
        read = given & reader.seen
        misfits, size = 0, len(reader.seen)
        if spec is not None and tensors:
            misfits, size = _misfits(spec, tables(spec), tensors), len(spec.to_json())
        score = (spec is not None and len(read) > 3, len(read) - misfits, -size)
        if read and score > best[0]:
            best = (score, Nearest(family, label, sorted(given - reader.seen), spec, tables))
    return best[1]


def _misfits(spec: Spec, tables: Iterable[Names], names: Iterable[str]) -> int:
    """The number of kinds of tensors that only one side has: a checkpoint with these `names`, or the closest of the tables."""
    there = {_without_numbers(name) for name in names}
    expected = [{_without_numbers(theirs) for b in table.bindings(spec) for theirs in b.theirs} for table in tables]
    return min(len(kinds ^ there) for kinds in expected)


def unknown_tensors(spec: Spec, tables: Iterable[Names], names: Iterable[str]) -> list[str]:
    """The names, with layers' numbers as N, of the tensors that no layout of the family knows."""
    unknown: dict[str, None] = {}
    tables = list(tables)
    known = {_without_numbers(theirs) for table in tables for b in table.bindings(spec) for theirs in b.theirs}
    for name in names:
        usual = [table.usual(name) for table in tables]
        ignored = any(table.why_ignored(name) for table, name in zip(tables, usual, strict=True))
        if not ignored and not any(_without_numbers(name) in known for name in usual):
            unknown[_without_numbers(name)] = None
    return list(unknown)


def _without_numbers(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".N", name)


def listed(names: list[str]) -> str:
    """Up to `SHOWN` names in quotes, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")
