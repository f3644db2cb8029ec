"""The pooling of an embedding model, from the files of sentence-transformers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.safetensors import SafetensorsFile, read_safetensors
from ordito.checkpoint.stored import StoredTensor
from ordito.errors import CheckpointError
from ordito.spec import Activation, Dense, Pooling

KINDS: dict[str, Literal["cls", "mean", "last"]] = {
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
"""Pooling modes, as a value of `pooling_mode` and as the older flags."""


ACTIVATIONS: dict[str, Activation | None] = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}
"""PyTorch's names of the activations that may follow a dense layer."""


PROMPTS = "config_sentence_transformers.json"


def pooling_from_folder(folder: Path) -> Pooling | None:
    """The pooling that `modules.json` describes, or None if there is no such file.

    Raises `CheckpointError` for an unsupported pooling or module, without which embeddings would be wrong.
    """
    if not (folder / "modules.json").is_file():
        return None
    pooling: Pooling | None = None
    for module in _modules(folder / "modules.json"):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            pooling = Pooling(kind=_kind(folder / _inner(module, folder) / "config.json"), max_tokens=_longest(folder))
        elif kind == "Dense" and pooling is not None and not pooling.normalise:
            path = folder / _inner(module, folder) / "config.json"
            pooling = replace(pooling, dense=(*pooling.dense, _dense(path, len(pooling.dense))))
        elif kind == "Normalize" and pooling is not None:
            pooling = replace(pooling, normalise=True)
        elif kind != "Transformer":
            raise CheckpointError(
                f"{folder / 'modules.json'}: the module {kind!r} is not supported here, "
                "expected Pooling, then Dense, then Normalize"
            )
    return pooling


def dense_tensors(folder: Path) -> SafetensorsFile:
    """The tensors of the pooling's dense layers, by canonical name; each layer has a file of its own."""
    tensors: dict[str, StoredTensor] = {}
    files = []
    modules = _modules(folder / "modules.json") if (folder / "modules.json").is_file() else []
    maps = [module for module in modules if str(module.get("type", "")).rpartition(".")[2] == "Dense"]
    for number, module in enumerate(maps):
        file = read_safetensors(folder / _inner(module, folder) / "model.safetensors")
        files.append(file.path)
        for name, tensor in file.tensors.items():
            tensors[f"dense_{number}.{name.removeprefix('linear.')}"] = tensor
    return SafetensorsFile(folder, tuple(files), {}, tensors)


def prompts_from_folder(folder: Path) -> tuple[dict[str, str], str | None]:
    """Name of a task -> the prompt to put before its texts, and the name of the default task or None."""
    path = folder / PROMPTS
    config = read_object(path) if path.is_file() else {}
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise CheckpointError(f"{path}: prompts is {prompts!r:.80}, expected an object of texts")
    return prompts, default if isinstance(default, str) else None


def _dense(path: Path, number: int) -> Dense:
    config = read_object(path)
    activation = str(config.get("activation_function", "Identity")).rpartition(".")[2]
    sizes = [config.get("in_features"), config.get("out_features")]
    if activation not in ACTIVATIONS or not all(type(size) is int and size > 0 for size in sizes):
        raise CheckpointError(
            f"{path}: a map from {sizes[0]!r} to {sizes[1]!r} and {activation!r}, expected two sizes and one of "
            f"{', '.join(ACTIVATIONS)}"
        )
    bias = config.get("bias", True) is not False
    return Dense(name=f"dense_{number}", d_in=sizes[0], d_out=sizes[1], bias=bias, activation=ACTIVATIONS[activation])  # type: ignore[arg-type]


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
