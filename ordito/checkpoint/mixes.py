"""The quantizations that people publish: which encoding each tensor of a model has in them.

The mixes are those of `llama-quantize` (llama.cpp, src/llama-quant.cpp), so that a file is as large, and means the same, as
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
"""The number of a layer and how many there are -> the encoding that a role has there."""


def everywhere(encoding: str) -> Rule:
    """One encoding on all layers."""
    return lambda number, n_layers: encoding


def where_it_matters(better: str, usual: str) -> Rule:
    """More bits on the first and last eighth of the layers, and on every third of the others."""

    def rule(number: int, n_layers: int) -> str:
        eighth = n_layers // 8
        suffers = number < eighth or number >= 7 * n_layers // 8 or (number - eighth) % 3 == 2
        return better if suffers else usual

    return rule


def at_first(better: str, usual: str, *, layers: int = 0, part: int = 0) -> Rule:
    """More bits on the first so many `layers`, or on the first 1 / `part` of them."""
    return lambda number, n_layers: better if number < (layers or n_layers // part) else usual


@dataclass(frozen=True)
class Mix:
    """The encoding of most matrices, of the head, and of the roles that are treated otherwise; `number` is what GGUF calls it.

    `v_shared` is that of `v` where four or more query heads share a key-value head, `informed_down` that of `down` where an
    importance matrix is at hand, `experts` that of experts.
    """

    number: int
    most: str
    head: str = "q6_k"
    v: Rule | None = None
    v_shared: Rule | None = None
    o: Rule | None = None
    down: Rule | None = None
    informed_down: Rule | None = None
    experts: str | None = None


def _k_m(number: int, usual: str) -> Mix:
    better = where_it_matters("q6_k", usual)
    return Mix(number, usual, v=better, down=better)


def _of_levels(number: int, encoding: str) -> Mix:
    """The mixes of IQ4."""
    first = at_first("q5_k", encoding, part=8)
    return Mix(number, encoding, v_shared=everywhere("q5_k"), down=first, informed_down=everywhere(encoding))


MIXES = {
    "F32": Mix(0, "f32", "f32"),
    "BF16": Mix(32, "bf16", "bf16"),
    "F16": Mix(1, "f16", "f16"),
    "Q8_0": Mix(7, "q8_0", "q8_0"),
    "Q6_K": Mix(18, "q6_k"),
    "Q5_K_M": _k_m(17, "q5_k"),
    "Q5_K_S": Mix(16, "q5_k"),
    "Q5_1": Mix(9, "q5_1"),
    "Q5_0": Mix(8, "q5_0", informed_down=at_first("q5_1", "q5_0", part=8)),
    "Q4_K_M": _k_m(15, "q4_k"),
    "Q4_K_S": Mix(14, "q4_k", v=at_first("q5_k", "q4_k", layers=4), down=at_first("q5_k", "q4_k", part=8)),
    "Q4_1": Mix(3, "q4_1"),
    "Q4_0": Mix(2, "q4_0", informed_down=at_first("q4_1", "q4_0", part=8)),
    "IQ4_NL": _of_levels(25, "iq4_nl"),
    "IQ4_XS": _of_levels(30, "iq4_xs"),
    "MXFP4_MOE": Mix(38, "q8_0", "q8_0", experts="mxfp4"),
    "Q3_K_L": Mix(13, "q3_k", v=everywhere("q5_k"), o=everywhere("q5_k"), down=everywhere("q5_k")),
    "Q3_K_M": Mix(
        12, "q3_k", v=at_first("q5_k", "q4_k", layers=2), o=everywhere("q4_k"), down=at_first("q5_k", "q4_k", part=16)
    ),
    "Q3_K_S": Mix(11, "q3_k"),
    "Q2_K": Mix(10, "q2_k", v=everywhere("q3_k"), v_shared=everywhere("q4_k"), o=everywhere("q3_k"), down=everywhere("q3_k")),
    "Q2_K_S": Mix(21, "q2_k", v_shared=everywhere("q4_k"), down=at_first("q4_k", "q2_k", part=8)),
}
"""From many bits to few."""
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Further names, which llama-quantize takes too."""
_SMALLER_ROWS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0", "iq4_xs": "iq4_nl"}
"""What takes the place of an encoding whose blocks are too long for a tensor's rows."""
_WHOLE = ("embedding.positions.weight", "embedding.types.weight", ".router.weight", ".relative_bias.weight")
"""Matrices that stay in fp32: they are small, and what they say is not to be rounded."""


def mix_named(name: str) -> Mix:
    """A mix by its name or alias, in small letters or capitals. Raises `OrditoError` for an unknown one."""
    if (mix := MIXES.get(ALIASES.get(name.upper(), name.upper()))) is None:
        near = did_you_mean(name.upper(), MIXES)
        raise OrditoError(f"unknown quantization {name!r}, expected one of {', '.join(MIXES)}{near}")
    return mix


def encodings(spec: Spec, mix: Mix, *, informed: bool = False) -> dict[str, str]:
    """The encoding of each tensor of `spec` by its canonical name; `informed` by an importance matrix."""
    traits = _traits(spec)
    return {name: _encoding(name, shape, mix, traits, informed) for name, shape in spec.tensors().items()}


def for_rows_of(columns: int, encoding: str) -> str:
    """That encoding, or what takes its place where rows are no whole number of its blocks."""
    for instead in (encoding, _SMALLER_ROWS.get(encoding, "f16")):
        if columns and columns % ENCODINGS[instead].block_size == 0:
            return instead
    return "f16" if columns else "f32"


class _Traits(NamedTuple):
    """What the mixes ask of a model: is the head the embedding, do four query heads share a key, how many experts, layers."""

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


def _encoding(name: str, shape: Shape, mix: Mix, traits: _Traits, informed: bool) -> str:
    if mix.most == "f32" or len(shape) < 2 or name.endswith((*_WHOLE, ".bias")):
        return "f32"
    encoding = mix.head if name == "head.weight" or (traits.tied and name.endswith(".tokens.weight")) else mix.most
    return for_rows_of(shape[-1], _by_role(name, mix, traits, informed) or encoding)


def _by_role(name: str, mix: Mix, traits: _Traits, informed: bool) -> str | None:
    """The encoding of a role that is treated otherwise; None for the others."""
    if mix.experts and ".experts." in name:
        return mix.experts
    number = next((int(part) for part in name.split(".") if part.isdigit()), None)
    role = name.removesuffix(".weight").rpartition(".")[2]
    if number is None or role not in ("k", "v", "o", "down") or mix.most in ("bf16", "f16", "q8_0"):
        return None
    if role in ("k", "v", "o") and traits.experts == 8:  # attention is small beside eight experts
        lower = mix.most in ("q2_k", "q3_k", "q4_k", "iq4_nl", "iq4_xs")
        return "q8_0" if role != "o" else "q5_k" if lower else None
    down = mix.informed_down if informed and mix.informed_down else mix.down
    rule = {"v": mix.v_shared if mix.v_shared and traits.shares else mix.v, "o": mix.o, "down": down}.get(role)
    return rule(number, traits.layers) if rule else None
