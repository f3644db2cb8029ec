"""Writing a model as one GGUF file, for llama.cpp and the programs built on it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ordito import families
from ordito.checkpoint.assemble import theirs_from
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.gguf_write import Planned, write_gguf
from ordito.checkpoint.importance import Importance
from ordito.checkpoint.mixes import encodings, fit_rows, mix_named
from ordito.checkpoint.stored import ENCODINGS
from ordito.errors import ConfigError, OrditoWarning
from ordito.families import Header
from ordito.families.naming import Binding, Names
from ordito.spec import Spec

COPIED = ("general.", "tokenizer.")
"""Prefixes of the metadata that are copied, as they do not depend on how weights are stored: names, authors, vocabulary, ..."""

NOT_COPIED = frozenset(f"general.{key}" for key in ("architecture", "alignment", "file_type", "quantization_version"))
"""Keys with these prefixes that do depend on it, and are written anew."""


class Weights(Mapping[str, np.ndarray]):
    """A checkpoint's tensors by canonical name, in fp32, each read on demand."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.names = checkpoint, checkpoint.spec.tensors()

    def __getitem__(self, name: str) -> np.ndarray:
        return self.checkpoint.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def to_gguf(
    path: Path,
    spec: Spec,
    weights: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    *,
    name: str,
    dtype: str = "f16",
    importance: Importance | None = None,
) -> None:
    """Write a model as a GGUF file.

    `dtype` is a quantization of `MIXES` (f16, q8_0, q4_k_m, ...); the `importance` matrix weighs its rounding errors. Of
    `metadata`, another file's or those that `ordito.text.to_gguf` makes of a tokenizer, the keys that begin with `COPIED` are
    copied. `name` is the model's name if the metadata have none.

    Warns (`OrditoWarning`) if llama.cpp will refuse the file or compute other numbers. Raises `ConfigError` if GGUF does not
    know the architecture or cannot express the spec, `OrditoError` for an unknown `dtype`, numbers too large for it or another
    model's importance matrix, `CheckpointError` if the file cannot be written.
    """
    mix = mix_named(dtype)
    bare, header = expressible(spec)
    kept = {key: value for key, value in metadata.items() if key.startswith(COPIED) and key not in NOT_COPIED}
    keys = {"general.name": name} | kept
    about = {"general.file_type": mix.number, "general.quantization_version": 2}
    about[f"{header.architecture}.vocab_size"] = bare.vocab_size  # llama.cpp needs it where the file has no vocabulary
    if importance is not None:
        about |= importance.about
    if spec.embedding.n_types:
        keys.setdefault("tokenizer.ggml.token_type_count", spec.embedding.n_types)
    gguf = families.gguf_of(families.family_of(bare))
    if told := gguf.caveat(bare):
        warnings.warn(f"{path}: {told}; Ordito reads it right", OrditoWarning, stacklevel=2)
    names = gguf.names(bare)
    settings = [tensor for tensor in header.shapes if tensor.startswith("rope_")]
    chosen = encodings(bare, mix, has_imatrix=importance is not None)
    planned = [
        Planned(theirs, binding.their_shape, _encoding(binding, chosen), importance.of(theirs) if importance else None)
        for binding in names.bindings(bare)
        for theirs in binding.theirs
    ] + [Planned(tensor, header.shapes[tensor], "f32") for tensor in settings]

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        yield from _theirs(names, bare, weights)
        for tensor in settings:
            yield tensor, np.array(header.values(tensor), np.float32)

    write_gguf(path, {**header.metadata, **about, **keys}, planned, arrays())


def _theirs(names: Names, spec: Spec, weights: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for binding in names.bindings(spec):
        yield from theirs_from(binding, {name: weights[name] for name in binding.ours})


def expressible(spec: Spec) -> tuple[Spec, Header]:
    """The spec without the parts that GGUF cannot hold, and its GGUF header.

    As few as possible of these are left out: multi-token prediction and pooler, then the pooling's dense layers and longest
    text, then the pooling. Raises `ConfigError` if GGUF does not know the architecture, or cannot express the rest.
    """
    plain = replace(spec, ahead=(), pooler=None)
    pooled = replace(plain, pooling=replace(spec.pooling, dense=(), max_tokens=None)) if spec.pooling else plain
    last: ConfigError | None = None
    for bare in dict.fromkeys((spec, plain, pooled, replace(plain, pooling=None))):
        try:
            return bare, families.header_from_spec(bare)
        except ConfigError as error:
            last = error
    assert last is not None, "there is always a spec to try"
    raise last


def _encoding(binding: Binding, chosen: Mapping[str, str]) -> str:
    """The encoding of a binding's tensors: of fused parts, the one with most bits."""
    forms = {chosen[name]: ENCODINGS[chosen[name]] for name in binding.ours}
    best = max(forms, key=lambda encoding: forms[encoding].block_bytes / forms[encoding].block_size)
    return fit_rows(binding.their_shape[-1], best)
