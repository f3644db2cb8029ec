"""Writing a model as a folder in the Hugging Face layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from ordito import families
from ordito.checkpoint.assemble import theirs_from
from ordito.checkpoint.encode import encode
from ordito.checkpoint.pooling import ACTIVATIONS, PROMPTS
from ordito.checkpoint.safetensors import Deferred, write_safetensors
from ordito.errors import OrditoError
from ordito.files import write_atomically
from ordito.spec import Dense, Pooling, Spec

SHARD_BYTES = 5_000_000_000
"""Bytes of weights beyond which they are split into shards, as on the hub."""


DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
"""The data types of weights -> their names in config.json."""


def write_folder(
    folder: Path, spec: Spec, weights: Mapping[str, np.ndarray], extra: Mapping[str, Any] | None = None, dtype: str = "f32"
) -> None:
    """Write config.json (with the keys of `extra`) and the weights, given by canonical name, under their published names.

    `dtype` is one of `DTYPES`. Tensors are read and encoded one by one, as they are written. Existing files of the same names
    are replaced atomically, one by one; config.json comes last, so that a folder with a config.json is complete. Raises
    `ConfigError` if the published format cannot express the spec, `OrditoError` if the folder cannot be written, or numbers are
    too large for the type.
    """
    config = families.config_from_spec(spec) | dict(extra or {}) | {"dtype": DTYPES[dtype]}
    bare = replace(spec, pooling=None)  # the pooling has files of its own
    names = families.names_of(bare)[0]
    bindings = names.bindings(bare)

    @lru_cache(maxsize=1)  # the tensors of a binding are written one after the other
    def made(number: int) -> dict[str, np.ndarray]:
        return dict(theirs_from(bindings[number], weights))

    def data(number: int, name: str) -> np.ndarray:
        return encode(name, made(number)[name], dtype).reshape(-1)

    theirs = {
        name: Deferred(binding.their_shape, dtype, partial(data, number, name))
        for number, binding in enumerate(bindings)
        for name in binding.theirs
    }
    existed = folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / "model.safetensors", theirs, metadata={"format": "pt"}, max_shard_bytes=SHARD_BYTES)
        if spec.pooling is not None:
            _write_pooling(folder, spec.pooling, spec.d_model, weights)
        write_json(folder / "config.json", config)
    except OSError as error:
        raise OrditoError(f"{folder}: cannot be written ({error.strerror or error})") from None
    finally:
        if not existed:
            with suppress(OSError):  # a folder in which nothing was written; any other is not removed
                folder.rmdir()


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file atomically. Raises `CheckpointError` if it cannot be written."""
    write_atomically(path, [(json.dumps(data, indent=2) + "\n").encode()])


def write_prompts(folder: Path, prompts: Mapping[str, str], default: str | None = None) -> None:
    """Write the file of sentence-transformers that holds the prompts of tasks by name. Raises `CheckpointError`."""
    write_json(folder / PROMPTS, {"prompts": dict(prompts), "default_prompt_name": default})


def _write_pooling(folder: Path, pooling: Pooling, width: int, weights: Mapping[str, np.ndarray]) -> None:
    """Write the files of sentence-transformers that describe the pooling."""
    modules = ["Transformer", "Pooling", *(["Dense"] * len(pooling.dense)), *(["Normalize"] if pooling.normalise else [])]
    paths = ["" if i == 0 else f"{i}_{name}" for i, name in enumerate(modules)]
    (folder / paths[1]).mkdir(exist_ok=True)
    mode = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}[pooling.kind]
    write_json(folder / paths[1] / "config.json", {"word_embedding_dimension": width, f"pooling_mode_{mode}": True})
    for dense, path in zip(pooling.dense, paths[2:], strict=False):
        _write_dense(folder / path, dense, weights)
    if pooling.max_tokens is not None:
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": pooling.max_tokens, "do_lower_case": False})
    write_json(
        folder / "modules.json",
        [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(zip(modules, paths, strict=True))
        ],
    )


def _write_dense(folder: Path, dense: Dense, weights: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    module = next(name for name, activation in ACTIVATIONS.items() if activation == dense.activation)
    place = "linear.Identity" if module == "Identity" else f"activation.{module}"
    write_json(
        folder / "config.json",
        {
            "in_features": dense.d_in,
            "out_features": dense.d_out,
            "bias": dense.bias,
            "activation_function": f"torch.nn.modules.{place}",
        },
    )
    tensors = {name.replace(dense.name, "linear", 1): weights[name] for name, _ in dense.tensors()}
    write_safetensors(folder / "model.safetensors", tensors, metadata={"format": "pt"})
