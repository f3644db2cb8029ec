"""How a folder says that its model makes embeddings: the files of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ordito.checkpoint.json_file import read_object
from ordito.errors import CheckpointError
from ordito.spec import Pooling

KINDS: dict[str, Literal["cls", "mean", "last"]] = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""Pooling modes, as a value of `pooling_mode` and as the older flags."""


def pooling_from_folder(folder: Path) -> Pooling | None:
    """The pooling that `modules.json` describes, or None where there is no such file.

    Raises `CheckpointError` for a pooling or a module that is not supported: an embedding without it would be another one.
    """
    if not (folder / "modules.json").is_file():
        return None
    pooling: Pooling | None = None
    for module in _modules(folder / "modules.json"):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = Pooling(kind=_kind(folder / _inner(module, folder) / "config.json"), max_tokens=_longest(folder))
        elif kind == "Normalize" and pooling is not None:
            pooling = Pooling(kind=pooling.kind, normalise=True, max_tokens=pooling.max_tokens)
        elif kind != "Transformer":
            raise CheckpointError(
                f"{folder / 'modules.json'}: the module {kind!r} is not supported, expected Pooling or Normalize"
            )
    return pooling


def _modules(path: Path) -> list[dict[str, Any]]:
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path}: expected a list of modules")
    return modules


def _inner(module: dict[str, Any], folder: Path) -> str:
    name = str(module.get("path", ""))
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise CheckpointError(f"{folder / 'modules.json'}: the path {name!r} leaves the model's folder")
    return name


def _kind(path: Path) -> Literal["cls", "mean", "last"]:
    config = read_object(path)
    named = config.get("pooling_mode")
    modes = (
        [named]
        if isinstance(named, str)
        else [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
    )
    if len(modes) != 1 or modes[0] not in KINDS:
        raise CheckpointError(f"{path}: pools by {modes or named!r}, expected one of {sorted(set(KINDS.values()))}")
    return KINDS[modes[0]]


def _longest(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    longest = read_object(path).get("max_seq_length") if path.is_file() else None
    return longest if isinstance(longest, int) and longest > 0 else None
