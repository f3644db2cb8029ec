"""The entries of the catalogue. The data are in `models/`, one JSON file for each family; new models are added there."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from ordito.errors import ModelNotFoundError, did_you_mean

CONTEXT_KEYS = ("max_position_embeddings", "n_positions")
"""Keys of a config.json for the context, in tokens."""
_REACH = frozenset({*CONTEXT_KEYS, "original_max_position_embeddings", "rope_scaling", "rope_theta", "sliding_window"})
"""Keys that say how far a model reads; no tensor's shape depends on them, but for positions that are learned."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One published model.

    `family` is the file that lists it, `id` its name on the Hugging Face hub, or at its provider if it is `closed`: then
    there is no configuration, and what is known is `context` (tokens) and `modalities` (what it reads). `released` is a
    month, YYYY-MM. `config` is the part of the published config.json that determines the architecture.

    `exact_parameters` is the number of parameters that the configuration gives. `published_parameters` and
    `published_active` are the publisher's figures, as printed ("46.7B"). They agree with ours, rounded or cut to the digits
    printed, once `counts_also` (what the publisher includes and the configuration does not have, such as a vision tower) is
    added to the total and, if `active_excludes_embedding`, the embedding is taken from what is active for one token.
    `differs` says why the published total does not agree where it does not.
    """

    name: str
    family: str
    publisher: str
    released: str
    id: str | None = None
    config: Mapping[str, Any] | None = field(default=None, hash=False)
    exact_parameters: int | None = None
    published_parameters: str | None = None
    published_active: str | None = None
    counts_also: Mapping[str, int] = field(default_factory=dict, hash=False)
    active_excludes_embedding: bool = False
    differs: str | None = None
    note: str | None = None
    closed: bool = False
    context: int | None = None
    modalities: tuple[str, ...] = ("text",)
    license: str | None = None


@cache
def models() -> tuple[Entry, ...]:
    """Every entry, family by family."""
    published = [(family, contents, model) for family, contents in _files().items() for model in contents["models"]]
    by_name = {model["name"]: model for _, _, model in published}
    return tuple(_entry(family, contents, model, by_name) for family, contents, model in published)


def titles() -> dict[str, str]:
    """The families, by the name of their file, with the titles to show."""
    return {family: contents["title"] for family, contents in _files().items()}


def find(name: str) -> Entry:
    """The model of this name or id, whatever the case and the punctuation.

    The organisation of an id may be left out, and so may the end of a name, if all models that begin so have the same
    configuration, or differ only in how far they read: the first of them is meant then. Raises `ModelNotFoundError` if there
    is no such model, or if there are several.

    >>> find("llama-3.1-8b").config["rope_scaling"]["factor"]
    8.0
    >>> find("mixtral-8x7b").name
    'Mixtral 8x7B v0.1'
    """
    plain = _plain(name)
    if entry := _spellings().get(plain):
        return entry
    candidates = [entry for spelling, entry in _spellings().items() if plain and spelling.startswith(plain)]
    if candidates and all(entry.config and _tensors(entry) == _tensors(candidates[0]) for entry in candidates):
        return candidates[0]
    if candidates:
        names = list(dict.fromkeys(entry.name for entry in candidates))
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ModelNotFoundError(f"several models of the catalogue match {name!r}: {listed}; give a full name")
    near = did_you_mean(_dashed(name), [_dashed(entry.name) for entry in models()])
    shown = name if len(name) <= 80 else name[:80] + "..."
    raise ModelNotFoundError(f"the catalogue has no model {shown!r}{near}")


def _tensors(entry: Entry) -> tuple[int | None, dict[str, Any]]:
    """What is equal for models with the same tensors: the number of parameters, and the configuration without `_REACH`."""
    return entry.exact_parameters, {key: value for key, value in (entry.config or {}).items() if key not in _REACH}


@cache
def _spellings() -> dict[str, Entry]:
    """Normalised spelling -> model: names, then ids, then ids without the organisation; the first of equal spellings counts."""
    found: dict[str, Entry] = {}
    spelled = [[entry.name, entry.id or "", (entry.id or "").rpartition("/")[2]] for entry in models()]
    for kind in range(3):
        for entry, spellings in zip(models(), spelled, strict=True):
            if spellings[kind]:
                found.setdefault(_plain(spellings[kind]), entry)
    return found


@cache
def _files() -> dict[str, dict[str, Any]]:
    """The contents of every file, by family."""
    paths = sorted((files("ordito.catalogue") / "models").iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".json"): json.loads(path.read_text(encoding="utf-8")) for path in paths}


def _entry(family: str, contents: dict[str, Any], model: dict[str, Any], by_name: dict[str, dict[str, Any]]) -> Entry:
    """One entry. Its configuration may be that of another model, which `same_as` names."""
    shape = by_name[model["same_as"]] if "same_as" in model else model
    config, published = shape.get("config"), model.get("published", {})
    lengths = [config[key] for key in CONTEXT_KEYS if key in config] if config else []
    return Entry(
        name=model["name"],
        family=family,
        publisher=contents["publisher"],
        released=model["released"],
        id=model["id"],
        config=config,
        exact_parameters=shape.get("exact"),
        published_parameters=published.get("parameters"),
        published_active=published.get("active"),
        counts_also=published.get("counts_also", {}),
        active_excludes_embedding=published.get("active_excludes_embedding", contents.get("active_excludes_embedding", False)),
        differs=published.get("differs"),
        note=model.get("note"),
        closed=model.get("closed", False),
        context=shape.get("context", lengths[0] if lengths else None),
        modalities=tuple(model.get("modalities", ["text"])),
        license=model.get("license"),
    )


def _dashed(name: str) -> str:
    """A name in lower case with dashes, as users type it."""
    return name.casefold().replace(" ", "-")


def _plain(name: str) -> str:
    """A name without case, spaces and punctuation; a point between digits stays, because 1.3B is not 13B."""
    return re.sub(r"(?!(?<=\d)\.(?=\d))[\W_]", "", name.casefold())
