"""LoRA adapters in the format of PEFT: a folder of adapter_config.json and adapter_model.safetensors.

An adapter changes linear maps W (out, in) of a base model by maps of low rank r:

    W' = W + s B A              A (r, in), B (out, r); LoRA, arXiv:2106.09685, s = alpha / r
                                rsLoRA, arXiv:2312.03732: s = alpha / sqrt(r)
    W' = m (W + s B A) / n      DoRA, arXiv:2402.09353: m (out,) the magnitudes, n (out,) the norms of the rows of W + s B A

A stacked tensor of E experts, (E, out, in), has E such maps of the same rank (PEFT's `target_parameters`). PEFT concatenates
their A to (E r, in); column k E + e of their B, (out, r E), is column k of expert e. If several tensors of one module are
adapted, the names of all but the last have `base_layer.` inserted.

An adapter may also hold tensors that replace the base's: whole modules (`modules_to_save`) and biases. Names are those of the
base model in transformers: `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.adapter_experts import PARAMETERS, changed_tensors, unpacked
from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.safetensors import read_safetensors
from ordito.checkpoint.stored import StoredTensor, shown
from ordito.errors import CheckpointError
from ordito.families.reader import Reader

Array = NDArray[np.float32]

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
"""The prefix that PEFT's wrappers add to the names of the base model."""

_PARTS = {
    "lora_A": "a",
    "lora_B": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
}
_MAX_PATTERNS = 4096  # one for each linear map of the largest models
_FLOATS = ("f32", "bf16", "f16")
_INITS = (None, True, False, "gaussian", "eva", "orthogonal")
_UNSUPPORTED = (
    "alora_invocation_tokens arrow_config enable_lora kasa_config layer_replication lora_bias monteclora_config "
    "trainable_token_indices use_bdlora use_qalora velora_config"
).split()
_IRRELEVANT = frozenset(
    # File bookkeeping, training, and which modules are adapted, which the tensors' names say.
    """auto_mapping revision inference_mode lora_dropout peft_version merge_weights task_type exclude_modules layers_pattern
    ensure_weight_tying corda_config eva_config loftq_config lora_ga_config megatron_config megatron_core
    qalora_group_size runtime_config""".split()
)


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change of one linear map W (out, in): `a` (r, in), `b` (out, r), `scaling`, and for DoRA `magnitude` (out,).

    An `embedding` is a linear map of one-hot tokens: its table (V, D) is W transposed. For `stacked` experts, W (E, out, in),
    `a` is (E, r, in), `b` (E, out, r) and `magnitude` (E, out).
    """

    a: Array
    b: Array
    scaling: float
    magnitude: Array | None = None
    embedding: bool = False

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.a.shape[-2]

    @property
    def stacked(self) -> bool:
        """Whether W is the stacked tensor of E experts."""
        return self.a.ndim == 3

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of W: (out, in), or (E, out, in)."""
        return *self.b.shape[:-1], self.a.shape[-1]

    def merged(self, weight: Array) -> Array:
        """W', the merged weight, of W."""
        changed: Array = self.b @ self.a
        changed *= np.float32(self.scaling)
        changed += weight
        if self.magnitude is not None:
            changed *= (self.magnitude / np.linalg.norm(changed, axis=-1))[..., None]
        return changed


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that was read from a folder.

    `changes` are keyed by the module's name, or, for stacked experts, the tensor's; `saved` are tensors that replace the
    base's, keyed by their names. Names are those of the base model in transformers. `base` is the model that the adapter
    says it was trained on.
    """

    path: Path
    base: str | None
    changes: Mapping[str, LowRank]
    saved: Mapping[str, StoredTensor] = field(default_factory=dict)


def open_adapter(path: Path) -> Adapter:
    """Read the adapter in a folder.

    Raises `CheckpointError` or `ConfigError` if it is damaged, holds pickles only, or is of a kind that is not LoRA or DoRA.
    """
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path}: is no adapter, expected a folder with {CONFIG} and {WEIGHTS}")
    config = Reader(read_object(path / CONFIG), str(path / CONFIG))
    if (kind := config.text("peft_type")) != "LORA":
        raise config.fail("peft_type", kind, "'LORA', the only kind of adapter that is read here")
    for key in _UNSUPPORTED:
        if config.get(key, None):
            raise config.fail(key, config.values[key], "none: this variant of LoRA is not supported; merge it with PEFT")
    if (start := config.get("init_lora_weights", None)) not in _INITS:
        raise config.fail(
            "init_lora_weights",
            start,
            "a start that leaves the base as it is; save the adapter again with path_initial_model_for_weight_conversion",
        )
    scalings, targets = _Scalings(config), _stacked_targets(config)
    _check_types(config)
    base = config.text("base_model_name_or_path", None) or None
    if base and len(base) > 500:
        raise config.fail("base_model_name_or_path", base, "the name of a model")
    config.finish(_IRRELEVANT)
    found, saved = _read_tensors(path)
    stacks = changed_tensors(found, targets)
    changes = {}
    for module, parts in found.items():
        name = stacks.get(module, module)
        changes[name] = _low_rank(parts, scalings, name, f"{path}: {shown(name)}", stacked=module in stacks)
    return Adapter(path, base, changes, saved)


def _check_types(config: Reader) -> None:
    """Check the types of the keys that say which modules are adapted. They are not used: the names of the tensors say it.

    In particular no regular expression of `target_modules` is run, which may take for ever in an untrusted file.
    """
    targets = config.get("target_modules", "")
    if not isinstance(targets, str) and not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
        raise config.fail("target_modules", targets, "a list of names, or a pattern")
    layers = config.get("layers_to_transform", [])
    if not all(type(n) is int and n >= 0 for n in (layers if isinstance(layers, list) else [layers])):
        raise config.fail("layers_to_transform", layers, "numbers of layers")
    config.items("modules_to_save", None)
    config.choice("bias", {"none": 0, "all": 0, "lora_only": 0}, "none")
    config.flag("use_dora", False)
    config.flag("fan_in_fan_out", False)  # the base's names tell it, module by module: PEFT keeps the flag of the last one


def _stacked_targets(config: Reader) -> list[str]:
    targets = list(config.items("target_parameters", None) or ())
    for target in targets:
        if not isinstance(target, str) or target.rpartition(".")[2] not in (*PARAMETERS, "weight"):
            raise config.fail("target_parameters", target, f"ends of names that end in {', '.join(PARAMETERS)} or weight")
    return targets


class _Scalings:
    """The rank and the scaling of each module by the configuration."""

    def __init__(self, config: Reader) -> None:
        self.rank = config.size("r", 8)
        self.alpha = config.real("lora_alpha", 8.0)
        self.root = config.flag("use_rslora", False)
        ranks, alphas = (config.section(key) or Reader({}, "") for key in ("rank_pattern", "alpha_pattern"))
        if (n := max(len(ranks.values), len(alphas.values))) > _MAX_PATTERNS:
            raise config.fail("rank_pattern or alpha_pattern", f"{n} patterns", f"at most {_MAX_PATTERNS}")
        self.ranks = [(_pattern(key, config), ranks.size(key)) for key in ranks.values]
        self.alphas = [(_pattern(key, config), alphas.real(key)) for key in alphas.values]

    def of(self, module: str) -> tuple[int, float]:
        """The rank r and the scaling s of a module."""
        rank = _first_match(self.ranks, module, self.rank)
        return rank, _first_match(self.alphas, module, self.alpha) / (math.sqrt(rank) if self.root else rank)


def _pattern(text: str, config: Reader) -> re.Pattern[str]:
    """A key of rank_pattern or alpha_pattern as a regular expression. Raises `ConfigError` for one that may take long.

    In the worst case each repetition multiplies the time of backtracking by the length of a name, each choice by two.
    """
    repeated, choices = len(re.findall(r"[*+{]", text)), len(re.findall(r"[?|]", text))
    if len(text) > 500 or repeated > 2 or choices > 8 or re.search(r"\)[*+{]", text):
        raise config.fail("a key of rank_pattern or alpha_pattern", text, "a name, or a simple pattern of names")
    try:
        return re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise config.fail("a key of rank_pattern or alpha_pattern", text, f"a regular expression ({error})") from None


def _first_match(values: list[tuple[re.Pattern[str], Any]], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that matches the module's name, or the part of it behind one of its dots."""
    starts = [0, *(dot.end() for dot in re.finditer(r"\.", module))]
    return next((value for pattern, value in values if any(pattern.fullmatch(module, start) for start in starts)), otherwise)


def _read_tensors(path: Path) -> tuple[dict[str, dict[str, StoredTensor]], dict[str, StoredTensor]]:
    """The low-rank tensors by module and part, and the tensors that replace the base's."""
    if not (path / WEIGHTS).is_file() and (path / PICKLED).is_file():
        raise CheckpointError(
            f"{path}: holds its weights only as a pickle ({PICKLED}), which is never opened because unpickling runs code; "
            "convert it where you trust it: safetensors.torch.save_file(torch.load(PATH, map_location='cpu', "
            f"weights_only=True), '{WEIGHTS}')"
        )
    found: dict[str, dict[str, StoredTensor]] = {}
    saved: dict[str, StoredTensor] = {}
    for name, tensor in read_safetensors(path / WEIGHTS).tensors.items():
        if tensor.encoding not in _FLOATS or not 1 <= len(tensor.shape) <= 2 or len(name) > 500:
            raise CheckpointError(
                f"{path / WEIGHTS}: tensor {shown(name)} is {tensor.encoding} of shape {list(tensor.shape)}, expected "
                f"{', '.join(_FLOATS)} of one or two dimensions"
            )
        module, part = _split(name)
        table = found.setdefault(module, {}) if part else saved
        if (key := part or module) in table:
            raise CheckpointError(f"{path / WEIGHTS}: tensor {shown(name)} is there twice, in other spellings")
        table[key] = tensor
    if not found and not saved:
        raise CheckpointError(f"{path / WEIGHTS}: holds no tensors, expected an adapter's")
    return found, saved


def _split(name: str) -> tuple[str, str]:
    """The module and the part (`lora_A`) of a low-rank tensor; for others, the base's name of the tensor, and "".

    Old files name the adapter (`lora_A.default.weight`) and the wrappers (`modules_to_save.default.weight`).
    """
    words = name.removeprefix(PREFIX).split(".")
    part = next((i for i, word in enumerate(words) if word in _PARTS), None)
    if part is not None and words[part + 1 :] in ([], ["weight"], ["default"], ["default", "weight"]):
        return ".".join(words[:part]), words[part]
    return ".".join(word for word in words if word not in ("base_layer", "modules_to_save", "default")), ""


def _low_rank(parts: Mapping[str, StoredTensor], scalings: _Scalings, module: str, where: str, stacked: bool) -> LowRank:
    """One module's change. Raises `CheckpointError` if its tensors do not fit each other and the configuration."""
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    names = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if lacking := [name for name in names if name not in parts]:
        raise CheckpointError(f"{where} has {', '.join(parts)} but no {lacking[0]}; the adapter is incomplete")
    if unexpected := parts.keys() - {*names, "lora_magnitude_vector"}:
        raise CheckpointError(f"{where} has {min(unexpected)} beside {names[0]}, expected one of the two kinds")
    rank, scaling = scalings.of(module)
    a, b = (parts[name] for name in names)
    rows = a.shape[0] if stacked and a.shape[0] % rank == 0 else rank
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != rows or b.shape[1] != rows:
        times = " times the number of experts" if stacked else ""
        raise CheckpointError(
            f"{where}: {names[0]} has shape {list(a.shape)} and {names[1]} {list(b.shape)}, expected [{rank}, in] and "
            f"[out, {rank}] by the rank in {CONFIG}{times}"
        )
    if stacked:
        return LowRank(*unpacked(a.to_float32(), b.to_float32(), rank), scaling)
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is not None and magnitude.shape != b.shape[:1]:
        raise CheckpointError(f"{where}: lora_magnitude_vector has shape {list(magnitude.shape)}, expected [{b.shape[0]}]")
    return LowRank(a.to_float32(), b.to_float32(), scaling, None if magnitude is None else magnitude.to_float32(), embedding)
