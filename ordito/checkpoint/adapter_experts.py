"""How PEFT stores low-rank changes of stacked experts (`target_parameters`): names and shapes.

transformers holds the weights of all experts of a layer in two tensors, `experts.gate_up_proj` and `experts.down_proj`. The
E changes of one tensor, of rank r each, are a lora_A (E r, in), their A concatenated, and a lora_B (out, r E), whose column
k E + e is column k of expert e. The names of the tensors are not in the file: PEFT wraps the module `experts` once for each of
them, in the order of the module, so that the names of all but the last have `base_layer.` inserted (`ParamWrapper` of PEFT's
lora/layer.py).

For many models with experts PEFT takes any module called like an expert's of transformers 4, such as `down_proj`, for an
expert, and looks for the stacked tensors instead (`_convert_peft_config_moe` of utils/transformers_weight_conversion.py).
Other modules of such names escape this if they are named as tensors: `...mlp.down_proj.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

PARAMETERS = ("gate_up_proj", "down_proj")
"""The tensors of stacked experts, in the order of transformers' modules."""

_EXPERT_NAMES = frozenset("gate gate_proj up_proj down_proj w1 w2 w3".split())
_INSIDE = ".base_layer"


def looks_like_expert(module: str) -> bool:
    """Whether PEFT takes the module, in a model with experts, for one of an expert of transformers 4."""
    return module.rpartition(".")[2] in _EXPERT_NAMES


def changed_tensors(modules: Iterable[str], targets: Sequence[str]) -> dict[str, str]:
    """The stacked tensor that the low-rank tensors of each module change: `...experts.base_layer` -> `...experts.gate_up_proj`.

    `targets` are suffixes of names of tensors. Modules that are not `experts` are left out.
    """
    found = {}
    for module in modules:
        stem = re.sub(rf"({re.escape(_INSIDE)})+$", "", module)
        if not stem.endswith("experts"):
            continue
        depth = (len(module) - len(stem)) // len(_INSIDE)
        names = [name for part in PARAMETERS if _is_target(name := f"{stem}.{part}", targets)]
        if depth < len(names):
            found[module] = names[-1 - depth]
    return found


def _is_target(name: str, targets: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)


def wrapper_names(tensors: Sequence[str]) -> dict[str, str]:
    """The inverse of `changed_tensors`: `...experts.gate_up_proj` -> `...experts.base_layer`."""
    ordered = sorted(tensors, key=lambda name: PARAMETERS.index(name.rpartition(".")[2]))
    found = {}
    for number, name in enumerate(ordered):
        stem = name.rpartition(".")[0]
        outside = sum(other.rpartition(".")[0] == stem for other in ordered[number + 1 :])
        found[name] = stem + _INSIDE * outside
    return found


def unpacked(a: Array, b: Array, rank: int) -> tuple[Array, Array]:
    """PEFT's A and B, (E r, in) and (out, r E), as ours, (E, r, in) and (E, out, r)."""
    b_orE = b.reshape(len(b), rank, -1)
    return a.reshape(-1, rank, a.shape[1]), np.ascontiguousarray(b_orE.transpose(2, 0, 1))


def packed(a: Array, b: Array) -> tuple[Array, Array]:
    """The inverse of `unpacked`."""
    return a.reshape(-1, a.shape[2]), np.ascontiguousarray(b.transpose(1, 2, 0)).reshape(b.shape[1], -1)
