"""Language-model heads whose greatest logits are found without reading all of their weights (cpp/screening.hpp)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ordito.spec import Head, Spec

WORTH = 8192
"""Tokens of a vocabulary from which on that pays."""
LOWER = {"q8_0": 16 / 34, "q6_k": 64 / 210}
"""What part of a format's bytes are lower parts of codes: four bits of each of a block's 32, or two of its 256."""


class Held(Protocol):
    """How a file holds one tensor."""

    @property
    def encoding(self) -> str:
        """The name of its number format."""

    @property
    def nbytes(self) -> float:
        """Its bytes."""


def screened(spec: Spec) -> str | None:
    """The canonical name of the head's matrix, if what follows it leaves its greatest products the greatest logits."""
    head = spec.lm_head
    if head is None or head.vocab_size < WORTH or head.bias or head.softcap is not None or head.unused:
        return None
    return matrix_of(spec, head)


def spared(spec: Spec, stored: Mapping[str, Held]) -> int:
    """Bytes that an answer of the most probable tokens does not need, of weights that are `stored` by canonical name."""
    held = stored.get(screened(spec) or "")
    return round(LOWER.get(held.encoding, 0) * held.nbytes) if held is not None else 0


def matrix_of(spec: Spec, head: Head) -> str:
    """The canonical name of the matrix of a head."""
    return f"{spec.embedding.name}.tokens.weight" if head.tied else f"{head.name}.weight"
