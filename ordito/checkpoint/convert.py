"""A model as one GGUF file, which llama.cpp and everyone who builds on it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ordito import families
from ordito.checkpoint.assemble import theirs_from
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.gguf_write import ENCODERS, Planned, write_gguf
from ordito.checkpoint.stored import ENCODINGS
from ordito.errors import ConfigError, OrditoError, did_you_mean
from ordito.families import Header
from ordito.families.naming import Names
from ordito.spec import Spec
from ordito.spec.node import Shape

_FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7, "bf16": 32}
"""llama.cpp's numbers of what most tensors of a file are."""
_WHOLE = ("ffn_gate_inp.weight", "position_embd.weight", "token_types.weight", "attn_rel_b.weight")
"""Matrices that stay in fp32: they are small, and what they say is not to be rounded."""


class Weights(Mapping[str, np.ndarray]):
    """A checkpoint's tensors by canonical name, each read when it is asked for."""

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
    tokenizer: Mapping[str, Any],
    *,
    name: str,
    dtype: str = "f16",
) -> None:
    """Write a model as GGUF, its matrices in `dtype` (f32, f16, bf16, q8_0). The keys `tokenizer.*` are those of `tokenizer`:
    another file's metadata, or what `ordito.text.to_gguf` makes.

    Raises `ConfigError` if GGUF does not know the architecture or cannot express the spec, `OrditoError` for an unknown
    type, `CheckpointError` if the file cannot be written.
    """
    if dtype not in ENCODERS:
        raise OrditoError(f"unknown type {dtype!r}, expected one of {', '.join(ENCODERS)}{did_you_mean(dtype, ENCODERS)}")
    bare, header = _expressible(spec)
    keys = {key: value for key, value in tokenizer.items() if key.startswith("tokenizer.")}
    about = {"general.name": name, "general.file_type": _FILE_TYPES[dtype], "general.quantization_version": 2}
    if spec.embedding.n_types:
        keys.setdefault("tokenizer.ggml.token_type_count", spec.embedding.n_types)
    names = families.gguf_of(families.family_of(bare)).names(bare)
    settings = [tensor for tensor in header.shapes if tensor.startswith("rope_")]
    planned = [
        Planned(theirs, binding.their_shape, _encoding(theirs, binding.their_shape, dtype))
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


def _expressible(spec: Spec) -> tuple[Spec, Header]:
    """The spec without what GGUF has no place for: poolers, multi-token prediction, what follows pooling and limits it."""
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


def _encoding(name: str, shape: Shape, dtype: str) -> str:
    if len(shape) < 2 or name.endswith((*_WHOLE, ".bias")) or prod(shape) == 0:
        return "f32"
    return "f16" if shape[-1] % ENCODINGS[dtype].block_size else dtype
