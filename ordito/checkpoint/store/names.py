"""Parsing of model names: a path, a short name, or a repository of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ordito.checkpoint.store.shipped import known_names, shipped
from ordito.errors import ModelNotFoundError, did_you_mean

DEFAULT_MODEL = "smollm2"

Source = Literal["path", "package", "hub"]

_HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<quant>[\w.+/-]+))?(?:@(?P<revision>[\w./+-]+))?", re.ASCII)
_WEIGHTS = (".gguf", ".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A parsed model name. Whether the model exists has not been checked."""

    name: str
    """The canonical spelling: of an alias its short name, of a path its absolute form."""
    source: Source
    path: Path | None = None
    repo: str | None = None
    quant: str | None = None
    revision: str | None = None

    @property
    def label(self) -> str:
        """A hub name without its revision, for progress bars."""
        return f"{self.repo}:{self.quant}" if self.quant else self.repo or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A model on this disk, ready to be read."""

    name: str
    """The name by which `locate` finds it."""
    path: Path
    """A .gguf file (of a split set the first), or a folder with config.json and safetensors."""
    source: Source
    licence: str | None = None
    licence_notice: str | None = None
    """A notice that the licence requires to be shown to the user."""
    size: int
    """Bytes of the files of the model."""
    fetched: bool = False
    """Whether this call downloaded it, so that the notice is due."""


def parse(name: str) -> Reference:
    """Parse a model name; the only look-up is whether a path exists. Raises `ModelNotFoundError` for an impossible name.

    In this order: a short name (`smollm2`; for a folder of that name say `./smollm2`), a path that exists or can be
    nothing else, `org/name[:quant][@revision]`, where `quant` is a tag such as Q4_K_M or the name of a .gguf file.

    >>> parse("gemma3:270m").name
    'gemma3-270m'
    >>> parse("org/name:Q8_0@v1").quant
    'Q8_0'
    """
    typed = name.strip()
    if not typed:
        raise ModelNotFoundError(f"a model name is empty; the shipped models are {', '.join(known_names())}")
    if model := shipped(typed):
        return Reference(name=model.name, source="package")
    if _looks_like_path(typed) or os.path.exists(typed):
        path = Path(os.path.abspath(os.path.expanduser(typed)))
        return Reference(name=str(path), source="path", path=path)
    if (hub := _HUB.fullmatch(typed)) and (fault := _hub_fault(hub)) is None:
        return Reference(name=typed, source="hub", repo=hub["repo"], quant=hub["quant"], revision=hub["revision"])
    ways = "give a short name, a path, or a hub repository as org/name[:quant][@revision]"
    shown = typed if len(typed) <= 80 else typed[:80] + "..."
    if hub:
        raise ModelNotFoundError(f"{shown!r} is no model name: {fault}; {ways}")
    near = did_you_mean(typed.casefold(), known_names()) or _published(typed)
    raise ModelNotFoundError(f"no model is called {shown!r}; {ways}; short names are {', '.join(known_names())}{near}")


def _published(typed: str) -> str:
    """The repository of a name of the catalogue, which has architectures only, as the end of an error."""
    from ordito import catalogue  # only for this error: most commands do not need it

    try:
        entry = catalogue.find(typed)
    except ModelNotFoundError:
        return ""
    return f"; {entry.name} is {entry.id} on the hub" if entry.id and not entry.closed else ""


def _looks_like_path(typed: str) -> bool:
    if typed in {".", "..", "~"} or typed.startswith(("./", "../", "~/", "/", ".\\", "..\\")) or os.path.isabs(typed):
        return True
    # org/name:file.gguf names a file within a repository.
    return typed.casefold().endswith(_WEIGHTS) and not (":" in typed and _HUB.fullmatch(typed))


def _hub_fault(match: re.Match[str]) -> str | None:
    """The reason why a name is invalid on the hub, or None."""
    for part in match["repo"].split("/"):
        if part[0] in "-." or part[-1] in "-." or "--" in part or ".." in part or len(part) > 96:
            return f"{part!r} is no legal part of a repository name"
    for part in ((match["revision"] or "") + "/" + (match["quant"] or "")).split("/"):
        if part in {".", ".."}:
            return "a revision or a file name cannot climb out of its folder"
    return None
