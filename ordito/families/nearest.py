"""What to say of an architecture that no family reads: which one is nearest, and what of it that one does not know."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ordito.errors import ConfigError, OrditoError, did_you_mean
from ordito.families.family import Family
from ordito.families.reader import IRRELEVANT, Reader
from ordito.spec import Spec

SHOWN = 8
"""Names that a message lists before it counts the rest."""


class UnknownArchitectureError(ConfigError):
    """An architecture that no family reads. `with_tensors` says the same of its tensors."""

    def __init__(self, where: str, label: str, config: Mapping[str, Any], families: Iterable[Family]) -> None:
        families = list(families)
        near = did_you_mean(label, (known for family in families for known in family.model_types))
        self.said = f"{where} is {label!r}, which no family here reads{near.rstrip('?')}"
        self.nearest, self.label, unread, self.spec = nearest(config, families)
        if self.nearest is not None:
            self.said += f"; the nearest is {self.nearest.title} ({self.label})"
            self.said += f", which does not know the keys {listed(unread)}" if unread else ", which knows all of its keys"
        super().__init__(self.said + "; CONTRIBUTING.md says how to add a family")

    def with_tensors(self, names: Iterable[str]) -> ConfigError:
        """The error with the tensors that the nearest family has no place for."""
        if self.nearest is None or self.spec is None:
            return self
        strange = strange_tensors(self.nearest, self.spec, names)
        more = f", and has no place for the tensors {listed(strange)}" if strange else ", and has a place for every tensor"
        return ConfigError(self.said + more + "; CONTRIBUTING.md says how to add a family")


def nearest(config: Mapping[str, Any], families: Iterable[Family]) -> tuple[Family | None, str, list[str], Spec | None]:
    """The family and label that read most of a configuration, the keys that they leave, and the spec if they make one.

    A reading that ends in a spec comes before one that fails on the way.
    """
    best: tuple[tuple[bool, int, int], Family | None, str, list[str], Spec | None] = ((False, 0, 0), None, "", [], None)
    given = {key for key in config if not key.startswith("_")} - IRRELEVANT
    for family in families:
        for label in family.model_types:
            reader, spec = Reader({**config, "model_type": label}, "config.json"), None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with contextlib.suppress(OrditoError):
                    spec = family.spec_from_config(reader)
            read = given & reader.seen
            score = (spec is not None and len(read) > 3, len(read), -len(reader.seen))
            if read and score > best[0]:
                best = (score, family, label, sorted(given - reader.seen), spec)
    return best[1:]


def strange_tensors(family: Family, spec: Spec, names: Iterable[str]) -> list[str]:
    """The names, numbers left out, of the tensors that no layout of the family has."""
    strange: dict[str, None] = {}
    tables = [family.names(spec), *family.layouts(spec)]
    known = {_form(theirs) for table in tables for b in table.bindings(spec) for theirs in b.theirs}
    for name in names:
        usual = [table.usual(name) for table in tables]
        if not any(_form(n) in known for n in usual) and not any(t.why_ignored(n) for t, n in zip(tables, usual, strict=True)):
            strange[_form(name)] = None
    return list(strange)


def _form(name: str) -> str:
    return re.sub(r"\.\d+(?=\.)", ".N", name)


def listed(names: list[str]) -> str:
    """Some names in quotes, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")
