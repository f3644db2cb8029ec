"""The configuration of a run: typed settings from a YAML file, from `--set key=value`, or from Python."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from ordito.errors import ConfigError, did_you_mean
from ordito.train.settings import LowRankSettings, MoeSettings, MuonSettings, Name, ParallelSettings, Settings


class Config(Settings):
    """Everything that a run depends on. Lists are written a,b,c on the command line."""

    objective: str = Field(description="What is trained: the name of a task.")
    model: Name = Field(description="A name, org/name, a folder, a GGUF file; with scratch also a config.json alone.")
    data: tuple[Name, ...] = Field(
        min_length=1, description="Files (.jsonl, .json, .parquet, .txt), folders of them, or hf:DATASET."
    )
    output: Name = Field(description="Folder of the run.")
    settings: Any = Field(None, description="The task's own settings, under its name.")

    scratch: bool = Field(False, description="Start from random weights of the model's architecture.")
    tokenizer: Name | None = Field(
        None, description="A folder or GGUF file whose tokenizer is used; the model's own if not given."
    )
    prompt_format: str | None = Field(None, description="Prompt format of conversations; the model's own if not given.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of all randomness.")

    length: int = Field(512, ge=2, le=1 << 20, description="Tokens of a row, at most.")
    pack: bool = Field(True, description="Put several short texts in one row; they do not attend to each other.")
    stream: bool = Field(False, description="Read the data while training, a shard at a time, instead of all of it first.")
    batch_size: int = Field(8, ge=1, le=1 << 20, description="Rows of an optimizer step, over all processes.")
    micro_batch: int | None = Field(None, ge=1, description="Rows of one forward pass; chosen by length if not given.")
    epochs: float = Field(1.0, gt=0, le=10_000, description="Passes over the data.")
    steps: int | None = Field(None, ge=1, description="Optimizer steps, instead of epochs.")
    max_time: float | None = Field(None, gt=0, description="Minutes after which the run saves and stops.")

    lr: float = Field(2e-4, ge=0, lt=100, description="Peak learning rate.")
    schedule: Literal["cosine", "linear", "wsd", "constant"] = Field("cosine", description="How the learning rate falls.")
    warmup: float = Field(0.03, ge=0, description="Steps in which it rises: below 1 a share of all steps.")
    decay: float = Field(0.2, ge=0, le=1, description="wsd: share of all steps in which it falls at the end.")
    final: float = Field(0.0, ge=0, le=1, description="Share of the peak where it ends.")
    optimizer: Literal["adamw", "muon"] = "adamw"
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.01, ge=0, description="Of matrices; vectors are not decayed.")
    clip: float | None = Field(1.0, gt=0, description="Largest norm of the gradient; none if 'none'.")
    muon: MuonSettings = MuonSettings()

    adapter: Literal["none", "lora", "dora", "qlora"] = Field("none", description="Train low-rank maps, with frozen weights.")
    lora: LowRankSettings = LowRankSettings()
    moe: MoeSettings = MoeSettings()
    new_tokens: Name | None = Field(None, description="A file of tokens, one a line, that the vocabulary is extended by.")
    new_rows: Literal["pieces", "mean"] = Field(
        "pieces", description="What rows of new tokens begin as: the mean of their old pieces' rows, or of all rows."
    )

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of matrix products; weights stay in float32."
    )
    recompute: bool = Field(False, description="Activation checkpointing: compute layers again in the backward pass.")
    compile: bool = Field(False, description="torch.compile: faster after a minute or two.")
    parallel: ParallelSettings = ParallelSettings()
    threads: int | None = Field(
        None, ge=1, le=1024, description="Threads of PyTorch; if not given its default, within the CPU quota."
    )

    eval_data: tuple[Name, ...] = Field((), description="Held-out data, in the forms of data.")
    eval_every: int | None = Field(None, ge=1, description="Steps between evaluations; at the end in any case.")
    eval_rows: int = Field(256, ge=1, description="Rows of an evaluation, at most.")
    patience: int | None = Field(None, ge=1, description="Evaluations without a better loss after which the run stops.")
    sample_every: int | None = Field(None, ge=1, description="Steps between samples.")
    samples: tuple[str, ...] = Field((), description="Prompts that are answered as samples.")
    sample_tokens: int = Field(64, ge=1, le=4096)

    save_every: int | None = Field(None, ge=1, description="Steps between checkpoints; one is written at the end in any case.")
    keep: int = Field(2, ge=1, le=10_000, description="Newest checkpoints that are kept.")
    tensorboard: bool = Field(False, description="Write TensorBoard's files too.")

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return Path(self.output)

    def to_yaml(self) -> str:
        """All settings, defaults included, as YAML that reads back as the same configuration."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data; those of the task under its name."""
        values = self.model_dump(mode="json")
        settings = values.pop("settings")
        return values | ({self.objective: settings} if settings else {})


def config_from(values: Mapping[str, Any], sets: Iterable[str] = ()) -> Config:
    """The configuration of nested `values`, as YAML gives them, overridden by each `key=value` of `sets` in turn.

    Keys may be written as in `sets`, too: `lora.rank`, or a setting of the objective without its name as a prefix. Raises
    `ConfigError`, which names the setting, what was got and what was expected.
    """
    from ordito.train.task import kind_named

    tree = dict(values)
    name = tree.get("objective")
    if not isinstance(name, str):
        raise ConfigError("no objective is named: ordito train OBJECTIVE ..., or objective: in the file")
    kind = kind_named(name)
    fields = [*(field for field in Config.model_fields if field != "settings"), name]
    for key in [key for key in tree if key not in fields]:
        _put(tree, str(key), tree.pop(key), fields, kind.settings)
    for text in sets:
        key, value = _split(text)
        _put(tree, key, _value(value), fields, kind.settings)
    own = tree.pop(name, None) or {}
    if not isinstance(own, Mapping):
        raise ConfigError(f"{name}: got {own!r:.80}, expected settings of the objective: {name}.key=value")
    settings = _checked(kind.settings, own, f"{name}.")
    return _checked(Config, {**_listed(Config, tree), "settings": settings}, "")


def mapping_from_yaml(text: str, where: str) -> dict[str, Any]:
    """The settings of a YAML text, which `where` names in errors. Raises `ConfigError` if it is not a mapping."""
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where} is not YAML{line}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{where}: got {type(values).__name__}, expected settings, key: value")
    return values


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a YAML file. Raises `ConfigError` if it cannot be read."""
    try:
        return mapping_from_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r:.80}: expected key=value")
    return key.strip(), value


def _put(tree: dict[str, Any], key: str, value: Any, fields: Sequence[str], own: type[Settings]) -> None:
    """Set `a.b` to a value in a tree of settings, in place. Raises `ConfigError` for an unknown name."""
    first, *rest = key.split(".")
    if first not in fields:
        # Settings of the objective may be named without the objective's name as a prefix.
        if rest or first not in own.model_fields:
            raise ConfigError(
                f"unknown setting {key!r}, expected one of those that ordito train --settings lists"
                f"{did_you_mean(first, [*fields, *own.model_fields])}"
            )
        first, rest = str(tree["objective"]), [first]
    node, (*groups, last) = tree, [first, *rest]
    for group in groups:
        child = node.get(group)
        node[group] = node = dict(child) if isinstance(child, Mapping) else {}
    node[last] = value


def _value(text: str) -> Any:
    """A value of the command line, parsed as YAML, but numbers as Python does: 1e-4 is a string in YAML 1.1."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    if text.strip().lower() in ("none", "null", ""):
        return None
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, (bool, list, dict)) else text


def _listed(model: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with texts a,b,c split into lists where the field is a list."""
    made = dict(tree)
    for name, field in model.model_fields.items():
        if name not in made:
            continue
        value, kind = made[name], field.annotation
        if typing.get_origin(kind) is tuple and isinstance(value, os.PathLike):
            made[name] = [value]
        elif typing.get_origin(kind) is tuple and isinstance(value, (str, int, float)):
            made[name] = [part.strip() for part in str(value).split(",")] if name != "samples" else [str(value)]
        elif isinstance(kind, type) and issubclass(kind, BaseModel) and isinstance(value, Mapping):
            made[name] = _listed(kind, value)
    return made


def _checked(model: type[Any], values: Mapping[str, Any], before: str) -> Any:
    try:
        return model(**_listed(model, values))
    except ValidationError as error:
        first = error.errors()[0]
        key = before + ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            owner = model
            for part in first["loc"][:-1]:
                owner = owner.model_fields[part].annotation
            raise ConfigError(f"unknown setting {key!r}{did_you_mean(str(first['loc'][-1]), owner.model_fields)}") from None
        if first["type"] == "missing":
            raise ConfigError(f"the setting {key!r} is missing: --{key} or --set {key}=...") from None
        raise ConfigError(f"{key}: got {first['input']!r:.80}, {first['msg'][:1].lower()}{first['msg'][1:]}") from None


def described(model: type[BaseModel], before: str = "") -> Iterable[tuple[str, str, str]]:
    """(name, default, description) of every setting."""
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from described(kind, f"{before}{name}.")
        elif name != "settings":
            default = "" if field.is_required() else _shown(field.default)
            yield f"{before}{name}", default, _choices(kind) + (field.description or "")


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return (
        {None: "none", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, int | float) or isinstance(value, bool)
        else f"{value:g}"
    )


def _choices(kind: Any) -> str:
    parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    named = [str(arg) for part in parts if typing.get_origin(part) is Literal for arg in typing.get_args(part)]
    return f"{' | '.join(named)}. " if named else ""
