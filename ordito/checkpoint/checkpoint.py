"""A model on disk: its spec, and its tensors under their canonical names, read on demand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ordito import families
from ordito.checkpoint.assemble import ours_from
from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.pooling import dense_tensors, pooling_from_folder
from ordito.checkpoint.quantized import read_quantized
from ordito.checkpoint.safetensors import SafetensorsFile, read_safetensors, read_sharded
from ordito.checkpoint.stored import Stored, StoredTensor, let_go, mapping
from ordito.errors import CheckpointError, OrditoWarning, did_you_mean
from ordito.families.mistral_params import config_from_params
from ordito.families.naming import Binding, Names
from ordito.spec import Chain, Spec


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, memory-mapped and checked, but not yet read. Iterating gives each tensor: canonical name, fp32 array.

    - `files` hold the tensors; `metadata` is config.json, or the metadata of a GGUF file.
    - `stored` are the files' tensors by their own names (normalised by `Names.usual`); `bindings` map them to ours.
    - `ignored` are tensors that the spec does not have: name -> why they are not read; `ignored_bytes` is their size.
    """

    path: Path
    files: Sequence[Path]
    format: Literal["huggingface", "gguf"]
    spec: Spec
    metadata: Mapping[str, Any]
    stored: Mapping[str, Stored]
    bindings: Sequence[Binding]
    ignored: Mapping[str, str]
    ignored_bytes: int = 0

    def read(self, name: str) -> np.ndarray:
        """One tensor by its canonical name, in fp32 and in the shape of the spec."""
        return self._read(next(binding for binding in self.bindings if name in binding.ours))[name]

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        for binding in self.bindings:
            yield from self._read(binding).items()

    def _read(self, binding: Binding) -> dict[str, np.ndarray]:
        return ours_from(binding, [self.stored[name].to_float32() for name in binding.theirs])

    def let_go(self) -> None:
        """Release the resident pages of the mapped files; they are read from disk again when needed."""
        tensors = (tensor for tensor in self.stored.values() if isinstance(tensor, StoredTensor))
        for file in {id(file): file for tensor in tensors if (file := mapping(tensor.data)) is not None}.values():
            let_go(file)

    @property
    def nbytes(self) -> int:
        """Bytes of the model's tensors as stored."""
        return sum(tensor.nbytes for tensor in self.stored.values())

    @property
    def encodings(self) -> dict[str, int]:
        """Encoding -> number of parameters that are stored in it, the most frequent first."""
        found: dict[str, int] = {}
        for tensor in self.stored.values():
            found[tensor.encoding] = found.get(tensor.encoding, 0) + int(np.prod(tensor.shape))
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @cached_property
    def generation(self) -> dict[str, Any]:
        """generation_config.json (the authors' sampling settings and end tokens), or {} if there is none."""
        path = self.path / "generation_config.json"
        return read_object(path) if self.format == "huggingface" and path.is_file() else {}


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file, a safetensors file with config.json beside it, or a folder that holds either.

    Raises `CheckpointError` or `ConfigError` if the files are damaged, of an unknown architecture, or do not hold exactly
    the tensors of their spec.
    """
    if path.is_dir():
        if (path / "config.json").is_file() or (path / MISTRAL_CONFIG).is_file():
            return _open_huggingface(path)
        files = sorted(path.glob("*.gguf"))
        if not files and (path / "adapter_config.json").is_file():
            ways = "`ordito run` runs it with its base, in Python `ordito.save(ordito.load(...), OUT)` makes one model of both"
            raise CheckpointError(f"{path}: holds an adapter and no model: {ways}")
        if len(files) != 1:
            raise CheckpointError(
                f"{path}: holds {len(files)} GGUF files and no config.json, expected one model: name the file"
            )
        path = files[0]
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if path.suffix == ".safetensors":
        return _open_huggingface(path.parent, path.name)
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such file")
    raise CheckpointError(f"{path}: is neither a .gguf nor a .safetensors file; pickled weights (.bin, .pt) are never opened")


MISTRAL_CONFIG, MISTRAL_FILE = "params.json", "consolidated.safetensors"
"""The files of Mistral's own format."""


def _open_huggingface(folder: Path, file: str = "model.safetensors") -> Checkpoint:
    if (folder / "config.json").is_file():
        where = folder / "config.json"
        config = read_object(where)
    else:
        where = folder / MISTRAL_CONFIG
        config = config_from_params(read_object(where), str(where))
    opened = _opened(folder, where, (file, MISTRAL_FILE))
    try:
        spec = families.spec_from_config(config, str(where))
    except families.UnknownArchitectureError as error:
        raise error.with_tensors(opened.tensors) from None
    dense = dense_tensors(folder)
    tensors = {**read_quantized(opened.tensors, config, str(where)), **dense.tensors}
    spec = _without_omitted(spec, families.names_of(spec)[0], tensors)
    spec = replace(spec, pooling=pooling_from_folder(folder) or spec.pooling)
    spelled, names = _with_usual_names(tensors, spec, families.names_of(spec), folder)
    spec = _untied(spec, names, spelled, folder)
    return _bind(folder, (*opened.files, *dense.files), "huggingface", spec, config, spelled, names)


def _opened(folder: Path, config: Path, files: Sequence[str]) -> SafetensorsFile:
    """The first of `files` that exists, as one file or as shards with an index. Raises `CheckpointError` if none does."""
    for file in files:
        if (folder / file).is_file():
            return read_safetensors(folder / file)
        if (index := folder / f"{file}.index.json").is_file():
            return read_sharded(index)
    raise CheckpointError(
        f"{folder}: has {config.name} but neither {files[0]} nor {files[0]}.index.json; pickled weights are never opened"
    )


def _with_usual_names(
    tensors: Mapping[str, Stored], spec: Spec, layouts: Sequence[Names], where: Path
) -> tuple[dict[str, Stored], Names]:
    """The tensors by their normalised names, and the first layout of which none is missing (or else the first of all)."""
    for names in layouts:
        spelled: dict[str, Stored] = {}
        for name, tensor in tensors.items():
            if (usual := names.usual(name)) in spelled and not _same(tensor, spelled[usual]):
                raise CheckpointError(
                    f"{where}: two tensors are both {usual!r} in other spellings, but differ: one of them is {name!r}"
                )
            spelled[usual] = tensor
        if all(theirs in spelled for binding in names.bindings(spec) for theirs in binding.theirs):
            return spelled, names
    return {layouts[0].usual(name): tensor for name, tensor in tensors.items()}, layouts[0]


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    shapes = {name: tensor.shape for name, tensor in file.tensors.items()}
    header = families.Header(file.metadata, shapes, lambda name: [float(x) for x in file.tensors[name].to_float32()])
    spec = families.spec_from_header(header)
    gguf = families.gguf_of(families.family_of(spec))
    layouts = [families.with_fusions(names, shapes) for names in (gguf.names(spec), *gguf.layouts(spec))]
    spelled, names = _with_usual_names(file.tensors, spec, layouts, path)
    return _bind(path, file.files, "gguf", spec, file.metadata, spelled, names)


def _without_omitted(spec: Spec, names: Names, tensors: Mapping[str, Stored]) -> Spec:
    """The spec without the modules that many files omit (multi-token prediction, pooler), if none of their tensors is there."""
    bindings, stored = names.bindings(spec), {names.usual(name) for name in tensors}
    found = {binding.ours[0].split(".")[0] for binding in bindings if not stored.isdisjoint(binding.theirs)}
    return replace(
        spec,
        ahead=spec.ahead if "ahead" in found else (),
        pooler=spec.pooler if spec.pooler and spec.pooler.name in found else None,
    )


def _untied(spec: Spec, names: Names, tensors: Mapping[str, Stored], where: Path) -> Spec:
    """The spec with an untied head, if the file holds a head that differs from the embedding although it should be tied.

    Warns (`OrditoWarning`) that it does so.
    """
    head = spec.lm_head
    if head is None or not head.tied or head.name not in names.table:
        return spec
    own = tensors.get(names.theirs(f"{head.name}.weight"))
    shared = tensors.get(names.theirs(f"{spec.embedding.name}.tokens.weight"))
    if own is None or shared is None or _same(own, shared):
        return spec
    warnings.warn(
        f"{where}: the head is said to be tied but differs from the embedding, so it is kept", OrditoWarning, stacklevel=2
    )
    return with_own_head(spec)


def with_own_head(spec: Spec) -> Spec:
    """The spec with its tied head untied."""
    assert spec.lm_head is not None, "only a head can be tied"
    own = replace(spec.lm_head, tied=False)
    return replace(spec, head=Chain(*spec.head.parts[:-1], own) if isinstance(spec.head, Chain) else own)


def _same(one: Stored, other: Stored) -> bool:
    """Whether two tensors are equal in every bit. False for quantized ones: two copies may be rounded differently."""
    if not isinstance(one, StoredTensor) or not isinstance(other, StoredTensor):
        return False
    return one.encoding == other.encoding and np.array_equal(one.data, other.data)


def _bind(
    path: Path,
    files: Sequence[Path],
    format: Literal["huggingface", "gguf"],
    spec: Spec,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    names: Names,
) -> Checkpoint:
    """The checkpoint. Raises `CheckpointError` unless the tensors are exactly those of the spec, but for ignored ones."""
    bindings = names.bindings(spec)
    theirs = {name: binding for binding in bindings for name in binding.theirs}
    missing = [name for name in theirs if name not in tensors]
    ignored, unknown = {}, []
    for name in tensors:
        if name not in theirs:
            why = names.why_ignored(name) or _copy_of_embedding(name, spec, names)
            ignored.update({name: why} if why else {})
            unknown += [] if why else [name]
    if missing or unknown:
        raise CheckpointError(f"{path}: the tensors are not those of its configuration: {_list_both(missing, unknown)}")
    for name, binding in theirs.items():
        if (got := tensors[name].shape) != binding.their_shape:
            raise CheckpointError(f"{path}: tensor {name!r} has shape {got}, expected {binding.their_shape}")
    unread = sum(tensors[name].nbytes for name in ignored)
    stored = {name: tensors[name] for name in theirs}
    return Checkpoint(path, files, format, spec, metadata, stored, bindings, ignored, unread)


def _copy_of_embedding(name: str, spec: Spec, names: Names) -> str | None:
    head = names.table.get("head")
    return "the head is tied to the token embedding" if name == f"{head}.weight" and spec.head is not None else None


def _list_both(missing: list[str], unknown: list[str]) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

    hints = did_you_mean(missing[0], unknown) if missing and unknown else ""
    parts = ([f"missing {some(missing)}"] if missing else []) + ([f"unknown {some(unknown)}"] if unknown else [])
    return "; ".join(parts) + hints
