"""How large a model is in each quantization that people publish: which encoding llama.cpp gives to which tensor.

The mixes are those of `llama-quantize` (llama.cpp, src/llama-quant.cpp), without importance matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from ordito.checkpoint.outline import Held
from ordito.checkpoint.stored import ENCODINGS
from ordito.errors import OrditoError, did_you_mean
from ordito.spec import Attention, Head, MixtureOfExperts, Spec, leaves_of
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
    """The encoding of most matrices, of the head, and of the roles that are treated otherwise.

    `v_shared` is that of `v` where four or more query heads share a key-value head.
    """

    most: str
    head: str = "q6_k"
    v: Rule | None = None
    v_shared: Rule | None = None
    o: Rule | None = None
    down: Rule | None = None


MIXES = {
    "F32": Mix("f32", "f32"),
    "BF16": Mix("bf16", "bf16"),
    "F16": Mix("f16", "f16"),
    "Q8_0": Mix("q8_0", "q8_0"),
    "Q6_K": Mix("q6_k"),
    "Q5_K_M": Mix("q5_k", v=where_it_matters("q6_k", "q5_k"), down=where_it_matters("q6_k", "q5_k")),
    "Q4_K_M": Mix("q4_k", v=where_it_matters("q6_k", "q4_k"), down=where_it_matters("q6_k", "q4_k")),
    "Q4_1": Mix("q4_1"),
    "Q4_0": Mix("q4_0"),
    "Q3_K_M": Mix("q3_k", v=at_first("q5_k", "q4_k", layers=2), o=everywhere("q4_k"), down=at_first("q5_k", "q4_k", part=16)),
    "Q2_K": Mix("q2_k", v=everywhere("q3_k"), v_shared=everywhere("q4_k"), o=everywhere("q3_k"), down=everywhere("q3_k")),
}
"""From many bits to few."""
_SMALLER_ROWS = {"q2_k": "q4_0", "q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
"""What takes the place of an encoding whose blocks are too long for a tensor's rows."""
_WHOLE = ("embedding.positions.weight", "embedding.types.weight", ".router.weight", ".relative_bias.weight")
"""Matrices that stay as they are."""


def held_as(spec: Spec, quantization: str) -> Mapping[str, Held]:
    """How each tensor of `spec` is stored in a quantization, by its canonical name. `OrditoError` for unknown ones."""
    if (mix := MIXES.get(quantization.upper())) is None:
        near = did_you_mean(quantization.upper(), MIXES)
        raise OrditoError(f"unknown quantization {quantization!r}, expected one of {', '.join(MIXES)}{near}")
    traits = _traits(spec)
    return {name: _held(shape, _encoding(name, shape, mix, traits)) for name, shape in spec.tensors().items()}


class _Traits(NamedTuple):
    """What the mixes ask of a model: is the head the embedding, do four query heads share a key, how many experts, layers."""

    tied: bool
    shares: bool
    experts: int
    layers: int


def _traits(spec: Spec) -> _Traits:
    return _Traits(
        tied=any(isinstance(leaf, Head) and leaf.tied for _, leaf in leaves_of(spec.head)) if spec.head else False,
        shares=any(isinstance(leaf, Attention) and leaf.n_heads >= 4 * leaf.n_kv_heads for _, leaf in spec.attentions),
        experts=max((leaf.router.n_experts for _, leaf in spec.leaves() if isinstance(leaf, MixtureOfExperts)), default=0),
        layers=spec.n_layers,
    )


def _encoding(name: str, shape: Shape, mix: Mix, traits: _Traits) -> str:
    if mix.most == "f32" or len(shape) < 2 or name.endswith((*_WHOLE, ".bias")):
        return "f32"
    encoding = mix.head if name == "head.weight" or (traits.tied and name.endswith(".tokens.weight")) else mix.most
    if mix.v or mix.o or mix.down:
        encoding = _by_role(name, mix, traits) or encoding
    if shape[-1] % ENCODINGS[encoding].block_size:
        encoding = _SMALLER_ROWS.get(encoding, "f16")
    return encoding if shape[-1] % ENCODINGS[encoding].block_size == 0 else "f16"


def _by_role(name: str, mix: Mix, traits: _Traits) -> str | None:
    """The encoding of a role that is treated otherwise; None for the others."""
    number = next((int(part) for part in name.split(".") if part.isdigit()), None)
    role = name.removesuffix(".weight").rpartition(".")[2]
    if number is None or role not in ("k", "v", "o", "down"):
        return None
    if role in ("k", "v", "o") and traits.experts == 8:  # attention is small beside eight experts
        return "q5_k" if role == "o" and mix.most in ("q2_k", "q3_k", "q4_k") else "q8_0" if role != "o" else None
    rule = {"v": mix.v_shared if mix.v_shared and traits.shares else mix.v, "o": mix.o, "down": mix.down}.get(role)
    return rule(number, traits.layers) if rule else None


def _held(shape: Shape, encoding: str) -> Held:
    form = ENCODINGS[encoding]
    return Held(encoding, prod(shape) // form.block_size * form.block_bytes)
