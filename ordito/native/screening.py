"""Which language-model heads are screened: their largest logits are found without reading all weights (cpp/screening.hpp)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from ordito.spec import Head, Spec

MIN_VOCABULARY = 8192
"""The smallest vocabulary for which screening pays."""
LOWER_BITS = {"q8_0": 16 / 34, "q6_k": 64 / 210}
"""Format -> the share of its bytes that screening skips, the lower bits of codes: 4 of 8 bits in Q8_0, 2 of 6 in Q6_K."""


class Held(Protocol):
    """How a file holds one tensor."""

    @property
    def encoding(self) -> str:
        """The name of its number format."""

    @property
    def nbytes(self) -> float:
        """Its bytes."""


def screened(spec: Spec) -> str | None:
    """The canonical name of the head's matrix if it can be screened, else None.

    It cannot if a bias, a softcap or unused ids follow: the largest products need not be the largest logits then.
    """
    head = spec.lm_head
    if head is None or head.vocab_size < MIN_VOCABULARY or head.bias or head.softcap is not None or head.unused:
        return None
    return matrix_of(spec, head)


def spared(spec: Spec, stored: Mapping[str, Held]) -> int:
    """Bytes of the `stored` weights (by canonical name) that a step does not read, thanks to screening, if only a few of
    the largest logits are needed."""
    held = stored.get(screened(spec) or "")
    return round(LOWER_BITS.get(held.encoding, 0) * held.nbytes) if held is not None else 0


def matrix_of(spec: Spec, head: Head) -> str:
    """The canonical name of a head's matrix; a tied head has the embedding's."""
    return f"{spec.embedding.name}.tokens.weight" if head.tied else f"{head.name}.weight"
