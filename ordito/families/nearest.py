"""The error for an architecture that no family reads: it names the nearest family, and what that does not know."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ordito.errors import ConfigError, OrditoError, did_you_mean
from ordito.families.family import Family
from ordito.families.reader import IRRELEVANT, Reader, shown
from ordito.spec import Spec

SHOWN = 8
"""Names that a message lists at most; of the others it gives the number."""


class UnknownArchitectureError(ConfigError):
    """An architecture that no family reads; the message names the nearest family and the keys that this does not know."""

    def __init__(self, where: str, label: str, config: Mapping[str, Any], families: Iterable[Family]) -> None:
        families = list(families)
        near = did_you_mean(label, (known for family in families for known in family.model_types))
        self.text = f"{where} is {shown(label)}, which no family here reads{near.rstrip('?')}"
        self.nearest, self.label, unread, self.spec = nearest(config, families)
        if self.nearest is not None:
            self.text += f"; the nearest is {self.nearest.title} ({self.label})"
            self.text += f", which does not know the keys {listed(unread)}" if unread else ", which knows all of its keys"
        super().__init__(self.text + "; CONTRIBUTING.md says how to add a family")

    def with_tensors(self, names: Iterable[str]) -> ConfigError:
        """The same error that also lists the tensors of the checkpoint (`names`) which the nearest family does not know."""
        if self.nearest is None or self.spec is None:
            return self
        unknown = unknown_tensors(self.nearest, self.spec, names)
        more = f", and has no place for the tensors {listed(unknown)}" if unknown else ", and has a place for every tensor"
        return ConfigError(self.text + more + "; CONTRIBUTING.md says how to add a family")


def nearest(config: Mapping[str, Any], families: Iterable[Family]) -> tuple[Family | None, str, list[str], Spec | None]:
    """The family and `model_type` that read most keys of a configuration, the keys left unread, and the spec, if it gave one.

    Families that give a spec (by more than 3 keys) come before those that raise an error. `architectures` names a class that
    none of them knows, so it is left out.
    """
    best: tuple[tuple[bool, int, int], Family | None, str, list[str], Spec | None] = ((False, 0, 0), None, "", [], None)
    given = {key for key in config if not key.startswith("_")} - IRRELEVANT
    values = {key: value for key, value in config.items() if key != "architectures"}
    for family in families:
        for label in family.model_types:
            reader, spec = Reader({**values, "model_type": label}, "config.json"), None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(OrditoError):
                    spec = family.spec_from_config(reader)
            read = given & reader.seen
            score = (spec is not None and len(read) > 3, len(read), -len(reader.seen))
            if read and score > best[0]:
                best = (score, family, label, sorted(given - reader.seen), spec)
    return best[1:]


def unknown_tensors(family: Family, spec: Spec, names: Iterable[str]) -> list[str]:
    """The names, with layers' numbers as N, of the tensors that no layout of the family knows."""
    unknown: dict[str, None] = {}
    tables = [family.names(spec), *family.layouts(spec)]
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
