"""Models at local paths: which model a path stands for, or why it stands for none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from ordito.checkpoint.store.names import LocalModel
from ordito.checkpoint.store.variants import GgufSet, configured, gguf_sets, is_adapter, pickles, safetensors_weights
from ordito.errors import ModelNotFoundError, did_you_mean


def inspect(path: Path) -> LocalModel:
    """The model at a path: a .gguf file (or any part of a split one), a .safetensors file, a folder with one model.

    Raises `ModelNotFoundError` for anything else, and for an incomplete model.
    """
    if os.path.isdir(path):  # unlike Path.is_dir, quiet about names that are too long
        return _folder(path)
    if not os.path.isfile(path):
        if os.path.exists(path):
            raise ModelNotFoundError(f"{path} is a device or a pipe: expected a .gguf or .safetensors file, or a folder")
        siblings = os.listdir(path.parent) if os.path.isdir(path.parent) else []
        where = "" if siblings else f" (nor is there a folder {path.parent})"
        raise ModelNotFoundError(f"there is no file or folder {path}{where}{did_you_mean(path.name, siblings)}")
    if pickles([path.name]):
        raise ModelNotFoundError(
            f"{path} is a pickle, which is never loaded because unpickling runs code; convert it to safetensors"
        )
    files = {one.name: one.stat().st_size for one in path.parent.iterdir() if one.is_file()}
    if path.suffix.casefold() == ".gguf":
        sets = [one for one in gguf_sets(files) if path.name in one.files]
        return _gguf(path.parent, sets[0] if sets else GgufSet(None, (path.name,), files[path.name]))
    if path.name in ("config.json", "params.json") or path.name.endswith((".safetensors", ".safetensors.index.json")):
        return _safetensors(path.parent, files)
    raise ModelNotFoundError(f"{path} is no model: expected a .gguf or .safetensors file, or a folder with config.json")


def _folder(folder: Path) -> LocalModel:
    files = {one.name: one.stat().st_size for one in sorted(folder.iterdir()) if one.is_file()}
    sets = gguf_sets(files)
    weights = safetensors_weights(files) if configured(files) else []
    if len(sets) + bool(weights) > 1:
        listed = ", ".join([one.main for one in sets] + weights[:1])
        raise ModelNotFoundError(f"{folder} holds several models; give the path of the one that you mean: {listed}")
    if sets:
        return _gguf(folder, sets[0])
    return _safetensors(folder, files)


def _gguf(folder: Path, one: GgufSet) -> LocalModel:
    if not one.complete:
        raise ModelNotFoundError(
            f"{folder / one.main} is part of a model split into {one.parts} files, of which {len(one.files)} "
            "are there; put all of them into one folder"
        )
    path = folder / one.main
    return LocalModel(name=str(path), path=path, source="path", size=one.size)


def _safetensors(folder: Path, files: Mapping[str, int]) -> LocalModel:
    if is_adapter(files):
        return _of_folder(folder, files)
    if not safetensors_weights(files) and (pickled := pickles(files)):
        raise ModelNotFoundError(
            f"{folder} holds its weights only as pickles ({pickled[0]}), which are never loaded because unpickling "
            "runs code; convert them to safetensors"
        )
    if not configured(files):
        found = "safetensors without their" if safetensors_weights(files) else "no .gguf file and no"
        raise ModelNotFoundError(
            f"{folder} is no model: it has {found} config.json; expected one .gguf file, or config.json and safetensors, or "
            "an adapter, which is adapter_config.json and adapter_model.safetensors"
        )
    if lost := missing_shards(folder, files):
        raise ModelNotFoundError(
            f"{folder} is incomplete: model.safetensors.index.json names {lost[0]}, which is not there; add it"
        )
    return _of_folder(folder, files)


def _of_folder(folder: Path, files: Mapping[str, int]) -> LocalModel:
    size = sum(bytes_ for name, bytes_ in files.items() if name.endswith((".safetensors", ".json", ".txt", ".model")))
    return LocalModel(name=str(folder), path=folder, source="path", size=size)


def missing_shards(folder: Path, files: Mapping[str, int]) -> list[str]:
    """The missing ones of the files that an index of shards names."""
    index = folder / "model.safetensors.index.json"
    if "model.safetensors" in files or not index.is_file():
        return []
    try:
        shards = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelNotFoundError(f"{index} is no index of safetensors: {error}") from error
    return sorted(str(shard) for shard in shards if shard not in files)
