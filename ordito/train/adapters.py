"""Adapters in training: LoRA, DoRA and QLoRA of a frozen base, written as PEFT's files, or merged for export."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ordito.checkpoint.adapter import LowRank
from ordito.checkpoint.adapter_names import changes_by_theirs, saved_by_theirs
from ordito.checkpoint.adapter_write import why_not_written, write_adapter
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import CheckpointError, ConfigError, OrditoWarning, did_you_mean
from ordito.nn.adapter import Adapters, weight_of
from ordito.nn.feedforward import Router, StackedLinear
from ordito.nn.nf4 import Nf4, quantize_linears
from ordito.nn.norm import Dense, Linear, Table
from ordito.nn.transformer import Head, Transformer
from ordito.spec import MixtureOfExperts, Spec
from ordito.train.settings import LowRankSettings

Kind = Literal["lora", "dora", "qlora"]

NAME = "trained"
"""The name of the adapter that `attach` makes."""


def attach(module: Transformer, settings: LowRankSettings, kind: Kind, seed: int) -> Adapters:
    """Freeze a transformer and attach a new adapter, which changes nothing yet; qlora first quantizes its linear maps to NF4.

    Initial values are PEFT's: A uniform in +-1 / sqrt(in) and B zero, DoRA's magnitudes the norms of the rows of W; for an
    embedding, A zero and B standard normal. Those of a map depend only on the seed and its name. Raises `ConfigError` if a
    target names no module or is also saved, or, before training rather than after, if PEFT's format cannot hold the adapter.
    """
    spec, table = module.spec, f"{module.spec.embedding.name}.tokens"
    saved = _saved(module, settings.saved)
    layers = [path for path in _layer_maps(module) if f"{path}.weight" not in saved]
    known = {
        path: part
        for path, part in module.named_modules()
        if path == table or (isinstance(part, (Linear, StackedLinear, Head)) and not isinstance(part, Router))
    }
    chosen = _chosen(known, layers, settings.targets, "targets")
    if both := [path for path in chosen if f"{path}.weight" in saved]:
        raise ConfigError(f"lora: {both[0]} is among targets and saved: it is trained whole, or by a low-rank map, not both")
    scaling = settings.alpha / (math.sqrt(settings.rank) if settings.root else settings.rank)
    changes = {
        path: _initial(known[path], path, settings.rank, scaling, seed, dora=kind == "dora") for path in known if path in chosen
    }
    _check_writable(changes, spec)
    if kind == "qlora":
        quantize_linears(module, layers)
    adapters = Adapters(module)
    adapters.add(NAME, changes, saved, settings.dropout)
    adapters.use(NAME)
    return adapters


def load_nf4(checkpoint: Checkpoint, settings: LowRankSettings) -> Transformer:
    """The module of a checkpoint, quantized to NF4 as `attach` does for qlora, with at most one full-precision map at a time.

    Raises as `attach` and the checkpoint's reading do.
    """
    with torch.device("meta"):
        module = Transformer(checkpoint.spec)
    maps = set(_layer_maps(module)) - _saved_modules(module, settings.saved)
    for name, array in checkpoint:
        module.load_state_dict({name: torch.from_numpy(np.require(array, np.float32, "W"))}, strict=False, assign=True)
        if (path := name.removesuffix(".weight")) in maps:
            quantize_linears(module, [path])
    return module.eval()


def write(adapters: Adapters, folder: Path, spec: Spec, base_name: str) -> None:
    """Write the active adapter as PEFT's folder. Raises as `write_adapter` does."""
    assert adapters.active is not None, "no adapter is active"
    task = "SEQ_2_SEQ_LM" if spec.encoder else "CAUSAL_LM" if spec.head else "FEATURE_EXTRACTION"
    changes = changes_by_theirs(adapters.changes(adapters.active), spec)
    saved = saved_by_theirs(adapters.saved(adapters.active), spec)
    write_adapter(folder, changes, base=base_name, saved=saved, task=task, experts=_has_experts(spec))


def _has_experts(spec: Spec) -> bool:
    return any(isinstance(leaf, MixtureOfExperts) for _, leaf in spec.leaves())


def merged(module: Transformer, adapters: Adapters) -> dict[str, Tensor]:
    """Every tensor of the model by canonical name, fp32, with the active adapter merged in; the module is not modified.

    A tied head that then differs from the embedding is `head.weight` (`with_own_head` gives such a spec). Warns
    (`OrditoWarning`) if the adapter changes nothing, or if the base weights are dequantized from NF4.
    """
    name = adapters.active
    assert name is not None, "no adapter is active"
    changed = adapters.merged(name)
    with adapters.using(None):
        tensors = {path: _tensor(module, path) for path in module.spec.tensors()}
        table = f"{module.spec.embedding.name}.tokens.weight"
        if "head.weight" in changed:
            tensors.setdefault("head.weight", tensors[table])
        moved = math.sqrt(sum(float((changed[path] - tensors[path]).square().sum()) for path in changed))
        norm = math.sqrt(sum(float(tensors[path].square().sum()) for path in changed))
    if moved == 0:
        warnings.warn("the adapter changes nothing: what is merged is the base", OrditoWarning, stacklevel=2)
    elif any(isinstance(part, Nf4) for part in module.modules()):
        warnings.warn(
            f"the adapter was trained on NF4 weights and is merged into these, dequantized; it changes them by "
            f"{moved / norm:.2%} of their norm",
            OrditoWarning,
            stacklevel=2,
        )
    tensors |= changed
    if "head.weight" in tensors and module.spec.tied and torch.equal(tensors["head.weight"], tensors[table]):
        del tensors["head.weight"]
    return tensors


def _tensor(module: Transformer, path: str) -> Tensor:
    owner, _, name = path.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), name)
    return tensor.detach().float()


def _layer_maps(module: Transformer) -> list[str]:
    """The linear maps of all layers, experts' included, without routers, and without `ahead`, which transformers lacks."""
    return [
        path
        for path, part in module.named_modules()
        if isinstance(part, (Linear, StackedLinear)) and not isinstance(part, (Router, Dense)) and not path.startswith("ahead.")
    ]


def _chosen(known: Iterable[str], layers: Iterable[str], targets: Iterable[str], setting: str) -> set[str]:
    """Modules that `targets` match: all maps of the layers (linear), or a part of a name between dots (q, mlp, layers.3)."""
    known, found = list(known), set[str]()
    for target in targets:
        means = set(layers) if target == "linear" else {path for path in known if f".{target}." in f".{path}."}
        if not means:
            words = sorted({word for path in known for word in path.split(".") if not word.isdigit()})
            raise ConfigError(
                f"lora.{setting}: got {target!r}, which is no module's name here, expected some of {', '.join(words)}"
                f"{did_you_mean(target, words)}"
            )
        found |= means
    return found


def _saved_modules(module: Transformer, names: Iterable[str]) -> set[str]:
    """The modules that are trained whole (PEFT's modules_to_save)."""
    owners = list(dict.fromkeys(path.rpartition(".")[0] for path in module.spec.tensors()))
    return _chosen([*owners, "head"] if module.spec.tied else owners, (), names, "saved")


def _saved(module: Transformer, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Copies of the tensors of modules that are trained whole. A tied head and its embedding stay one tensor."""
    chosen, table = _saved_modules(module, names), f"{module.spec.embedding.name}.tokens"
    paths = [path for path in module.spec.tensors() if path.rpartition(".")[0] in chosen]
    saved = {path: _tensor(module, path).cpu().numpy().copy() for path in paths}
    if module.spec.tied and {table, "head"} & chosen:
        saved[f"{table}.weight"] = _tensor(module, f"{table}.weight").cpu().numpy().copy()
        saved["head.weight"] = saved[f"{table}.weight"]
    return saved


def _initial(part: nn.Module, path: str, rank: int, scaling: float, seed: int, *, dora: bool) -> LowRank:
    """The initial low-rank map of a module, which changes nothing (see `attach`)."""
    weight, embedding = weight_of(part).detach(), isinstance(part, Table)
    *experts, d_out, d_in = weight.T.shape if embedding else weight.shape
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:7], "big"))
    a, b = torch.zeros(*experts, rank, d_in), torch.zeros(*experts, d_out, rank)
    if embedding:
        b.normal_(generator=generator)
    else:
        a.uniform_(-(d_in**-0.5), d_in**-0.5, generator=generator)  # kaiming_uniform with a = sqrt(5)
    magnitude = weight.float().norm(dim=0 if embedding else -1).cpu().numpy() if dora else None
    return LowRank(a.numpy(), b.numpy(), scaling, magnitude, embedding)


def _check_writable(changes: Mapping[str, LowRank], spec: Spec) -> None:
    try:
        reason = why_not_written(changes_by_theirs(changes, spec), _has_experts(spec))
    except CheckpointError as error:
        reason = str(error)
    if reason:
        raise ConfigError(f"lora.targets: PEFT could not read this adapter: {reason}; choose other targets (q,k,v,o), or lora")
