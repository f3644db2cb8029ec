"""Writing LoRA adapters for PEFT."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ordito.checkpoint.adapter import CONFIG, PREFIX, WEIGHTS, Array, LowRank
from ordito.checkpoint.adapter_experts import PARAMETERS, looks_like_expert, packed, wrapper_names
from ordito.checkpoint.export import write_json
from ordito.checkpoint.safetensors import write_safetensors
from ordito.errors import ConfigError, OrditoError


def write_adapter(
    folder: Path,
    changes: Mapping[str, LowRank],
    *,
    base: str,
    saved: Mapping[str, Array] | None = None,
    task: str | None = "CAUSAL_LM",
    experts: bool = False,
) -> None:
    """Write an adapter that PEFT reads.

    `changes` are keyed by the base's name of the module, or, for stacked experts, of the tensor, `saved` by that of the tensor;
    `experts` says whether the base has experts. Raises `ConfigError` if there are no changes, or some that PEFT has no form
    for, `OrditoError` if the folder cannot be written.
    """
    if reason := why_not_written(changes, experts):
        raise ConfigError(f"{folder}: {reason}")
    saved = saved or {}
    stacks = wrapper_names([name for name, change in changes.items() if change.stacked])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS, _tensors(changes, saved, stacks), metadata={"format": "pt"})
        write_json(
            folder / CONFIG, {"task_type": task, "base_model_name_or_path": base, **_config(changes, saved, stacks, experts)}
        )
    except OSError as error:
        raise OrditoError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _config(
    changes: Mapping[str, LowRank], saved: Mapping[str, Array], stacks: Mapping[str, str], experts: bool
) -> dict[str, Any]:
    """The keys of adapter_config.json that say which modules the adapter changes, their ranks and alphas."""
    named = {module for module, change in changes.items() if experts and not change.stacked and looks_like_expert(module)}
    whole = {name.removesuffix(".weight") for name in saved if name.endswith(".weight")} - changes.keys()
    biased = {name.rpartition(".")[0] for name in saved if not name.endswith(".weight")} - whole
    rank = Counter(change.rank for change in changes.values()).most_common(1)[0][0]
    alphas = {module: change.scaling * change.rank for module, change in changes.items()}
    alpha = Counter(alphas.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "inference_mode": True,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(changes.keys() - stacks.keys() - named),
        "target_parameters": sorted([*stacks, *(f"{module}.weight" for module in named)]) or None,
        "rank_pattern": {_one(m, m in named): change.rank for m, change in changes.items() if change.rank != rank},
        "alpha_pattern": {_one(m, m in named): value for m, value in alphas.items() if value != alpha},
        "use_rslora": False,
        "use_dora": any(change.magnitude is not None for change in changes.values()),
        "fan_in_fan_out": False,  # where a map is stored (in, out), PEFT sets it itself
        # PEFT reads biases whatever this says, but writes and trains no others.
        "bias": "all" if biased - changes.keys() else "lora_only" if biased else "none",
        "modules_to_save": sorted(whole) or None,
    }


def _tensors(changes: Mapping[str, LowRank], saved: Mapping[str, Array], stacks: Mapping[str, str]) -> dict[str, Array]:
    """The tensors of adapter_model.safetensors under PEFT's names."""
    tensors: dict[str, Array] = {}
    for module, change in changes.items():
        a, b = ("lora_embedding_A", "lora_embedding_B") if change.embedding else ("lora_A.weight", "lora_B.weight")
        values = packed(change.a, change.b) if change.stacked else (change.a, change.b)
        before = PREFIX + stacks.get(module, module)
        tensors |= {f"{before}.{a}": values[0], f"{before}.{b}": values[1]}
        if change.magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = change.magnitude
    for name, array in saved.items():
        module, _, parameter = name.rpartition(".")
        tensors[f"{PREFIX}{module}.{'base_layer.' if module in changes else ''}{parameter}"] = array
    return tensors


def _one(module: str, named: bool) -> str:
    """The pattern that matches one module only; PEFT matches those `named` as tensors with `.weight` behind."""
    weight = r"(\.weight)?" if named else ""
    return f"^{re.escape(module)}{weight}"


def why_not_written(changes: Mapping[str, LowRank], experts: bool) -> str | None:
    """The reason why changes, keyed by the base's names, cannot be written for PEFT; None if they can."""
    dora = {change.magnitude is not None for change in changes.values()}
    stacks = [name for name, change in changes.items() if change.stacked]
    if not changes:
        return "an adapter without a single change cannot be written"
    if dora == {True} and stacks:
        return f"PEFT has no magnitudes (DoRA) of experts that are one tensor, as {stacks[0]} is"
    if dora == {True} and experts and (names := [module for module in changes if looks_like_expert(module)]):
        return f"PEFT has no magnitudes (DoRA) of {names[0]}, which it takes for an expert's"
    if len(dora) > 1:
        return "some changes have magnitudes and some have none, expected all or none of them"
    if unknown := [name for name in stacks if name.rpartition(".")[2] not in PARAMETERS]:
        return f"PEFT's files can say which experts' tensor is meant of {' and '.join(PARAMETERS)} only, not of {unknown[0]}"
    return None
