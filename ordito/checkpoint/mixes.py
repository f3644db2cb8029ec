"""The published quantizations (Q4_K_M, ...), which are mixes of encodings: which one each tensor of a model has.

They are those of `llama-quantize` (llama.cpp, src/llama-quant.cpp), so that a file of Ordito has the same encodings and size as
others of its name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ordito.checkpoint.stored import ENCODINGS
from ordito.errors import OrditoError, did_you_mean
from ordito.spec import Attention, MixtureOfExperts, Spec
from ordito.spec.node import Shape

Rule = Callable[[int, int], str]
"""The number of a layer and the number of layers -> the encoding of a role (such as `down`) in that layer."""


def all_layers(encoding: str) -> Rule:
    """The same encoding in all layers."""
    return lambda number, n_layers: encoding


def more_bits(better: str, usual: str) -> Rule:
    """The `better` encoding in the first and last eighth of the layers, and in every third of the others.

    These layers are most sensitive to quantization: llama.cpp's `use_more_bits`.
    """

    def rule(number: int, n_layers: int) -> str:
        eighth = n_layers // 8
        sensitive = number < eighth or number >= 7 * n_layers // 8 or (number - eighth) % 3 == 2
        return better if sensitive else usual

    return rule


def first_layers(better: str, usual: str, *, layers: int = 0, part: int = 0) -> Rule:
    """The `better` encoding in the first `layers` layers, or in the first 1 / `part` of them."""
    return lambda number, n_layers: better if number < (layers or n_layers // part) else usual


@dataclass(frozen=True)
class Mix:
    """A quantization: the `usual` encoding of matrices, that of the head, and the rules of roles with other encodings.

    `number` is `general.file_type` in GGUF. `v_gqa` replaces `v` in models with four or more query heads for each key-value
    head, `imatrix_down` replaces `down` if there is an importance matrix; `experts` is the encoding of experts.
    """

    number: int
    usual: str
    head: str = "q6_k"
    v: Rule | None = None
    v_gqa: Rule | None = None
    o: Rule | None = None
    down: Rule | None = None
    imatrix_down: Rule | None = None
    experts: str | None = None


def _k_m(number: int, usual: str) -> Mix:
    better = more_bits("q6_k", usual)
    return Mix(number, usual, v=better, down=better)


def _iq4(number: int, encoding: str) -> Mix:
    """The mixes of IQ4_NL and IQ4_XS."""
    first = first_layers("q5_k", encoding, part=8)
    return Mix(number, encoding, v_gqa=all_layers("q5_k"), down=first, imatrix_down=all_layers(encoding))


MIXES = {
    "F32": Mix(0, "f32", "f32"),
    "BF16": Mix(32, "bf16", "bf16"),
    "F16": Mix(1, "f16", "f16"),
    "Q8_0": Mix(7, "q8_0", "q8_0"),
    "Q6_K": Mix(18, "q6_k"),
    "Q5_K_M": _k_m(17, "q5_k"),
    "Q5_K_S": Mix(16, "q5_k"),
    "Q5_1": Mix(9, "q5_1"),
    "Q5_0": Mix(8, "q5_0", imatrix_down=first_layers("q5_1", "q5_0", part=8)),
    "Q4_K_M": _k_m(15, "q4_k"),
    "Q4_K_S": Mix(14, "q4_k", v=first_layers("q5_k", "q4_k", layers=4), down=first_layers("q5_k", "q4_k", part=8)),
    "Q4_1": Mix(3, "q4_1"),
    "Q4_0": Mix(2, "q4_0", imatrix_down=first_layers("q4_1", "q4_0", part=8)),
    "IQ4_NL": _iq4(25, "iq4_nl"),
    "IQ4_XS": _iq4(30, "iq4_xs"),
    "MXFP4_MOE": Mix(38, "q8_0", "q8_0", experts="mxfp4"),
    "Q3_K_L": Mix(13, "q3_k", v=all_layers("q5_k"), o=all_layers("q5_k"), down=all_layers("q5_k")),
    "Q3_K_M": Mix(
        12, "q3_k", v=first_layers("q5_k", "q4_k", layers=2), o=all_layers("q4_k"), down=first_layers("q5_k", "q4_k", part=16)
    ),
    "Q3_K_S": Mix(11, "q3_k"),
    "Q2_K": Mix(10, "q2_k", v=all_layers("q3_k"), v_gqa=all_layers("q4_k"), o=all_layers("q3_k"), down=all_layers("q3_k")),
    "Q2_K_S": Mix(21, "q2_k", v_gqa=all_layers("q4_k"), down=first_layers("q4_k", "q2_k", part=8)),
}
"""The mixes by name, from most to fewest bits."""
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Further names that llama-quantize accepts."""
_FALLBACKS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
"""Encoding -> the one used instead if a tensor's rows are not a multiple of its block size."""
_FP32 = ("embedding.positions.weight", "embedding.types.weight", ".router.weight", ".relative_bias.weight")
"""Suffixes of matrices that stay in fp32, being small and sensitive to rounding."""


def mix_named(name: str) -> Mix:
    """A mix by its name or alias, in any case. Raises `OrditoError` for an unknown one."""
    if (mix := MIXES.get(ALIASES.get(name.upper(), name.upper()))) is None:
        near = did_you_mean(name.upper(), MIXES)
        raise OrditoError(f"unknown quantization {name!r}, expected one of {', '.join(MIXES)}{near}")
    return mix


def encodings(spec: Spec, mix: Mix, *, has_imatrix: bool = False) -> dict[str, str]:
    """The encoding of each tensor of `spec` by its canonical name; `has_imatrix`: quantized with an importance matrix."""
    traits = _traits(spec)
    return {name: _encoding(name, shape, mix, traits, has_imatrix) for name, shape in spec.tensors().items()}


def fit_rows(columns: int, encoding: str) -> str:
    """`encoding`, or its fallback if rows of `columns` elements are not a multiple of its block size."""
    for instead in (encoding, _FALLBACKS.get(encoding, "f16")):
        if columns and columns % ENCODINGS[instead].block_size == 0:
            return instead
    return "f16" if columns else "f32"


class _Traits(NamedTuple):
    """The properties of a model on which mixes depend; `shares`: four or more query heads share a key-value head."""

    tied: bool
    shares: bool
    experts: int
    layers: int


def _traits(spec: Spec) -> _Traits:
    return _Traits(
        tied=spec.tied,
        shares=any(isinstance(leaf, Attention) and leaf.n_heads >= 4 * leaf.n_kv_heads for _, leaf in spec.attentions),
        experts=max((leaf.router.n_experts for _, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts)), default=0),
        layers=spec.n_layers,
    )


def _encoding(name: str, shape: Shape, mix: Mix, traits: _Traits, has_imatrix: bool) -> str:
    if mix.usual == "f32" or len(shape) < 2 or name.endswith((*_FP32, ".bias")):
        return "f32"
    encoding = mix.head if name == "head.weight" or (traits.tied and name.endswith(".tokens.weight")) else mix.usual
    return fit_rows(shape[-1], _by_role(name, mix, traits, has_imatrix) or encoding)


def _by_role(name: str, mix: Mix, traits: _Traits, has_imatrix: bool) -> str | None:
    """The encoding of a tensor whose role has a rule of its own, or None."""
    if mix.experts and ".experts." in name:
        return mix.experts
    number = next((int(part) for part in name.split(".") if part.isdigit()), None)
    role = name.removesuffix(".weight").rpartition(".")[2]
    if number is None or role not in ("k", "v", "o", "down") or mix.usual in ("bf16", "f16", "q8_0"):
        return None
    if role in ("k", "v", "o") and traits.experts == 8:  # attention is small beside eight experts
        lower = mix.usual in ("q2_k", "q3_k", "q4_k", "iq4_nl", "iq4_xs")
        return "q8_0" if role != "o" else "q5_k" if lower else None
    down = mix.imatrix_down if has_imatrix and mix.imatrix_down else mix.down
    rule = {"v": mix.v_gqa if mix.v_gqa and traits.shares else mix.v, "o": mix.o, "down": down}.get(role)
    return rule(number, traits.layers) if rule else None
