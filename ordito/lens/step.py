"""What a trace is made of: steps, each a formula with this model's numbers, in sections, one a layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ordito.spec import Shape

if TYPE_CHECKING:
    from ordito.lens.numbers import Numbers


@dataclass(frozen=True, kw_only=True)
class Where:
    """The token that is followed: its position, and how many tokens there are; None where there is no text.

    `source_length` counts the tokens of the text that an encoder read; `caches` says whether what attention keeps is needed
    again, for a next token.
    """

    position: int | None = None
    length: int | None = None
    source_length: int | None = None
    caches: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing that is computed for the token.

    `path` is the canonical path of its block; `formula` has the numbers of this model in it, and `notes` say what a formula
    cannot; `shape` is that of the result, for the one token; `recorded` says where a recording has the result; `numbers` are
    what was found there.
    """

    path: str
    formula: str
    notes: tuple[str, ...] = ()
    shape: Shape = ()
    recorded: tuple[str, str] | None = None
    numbers: Numbers | None = None

    @property
    def block(self) -> str:
        """The last part of the path: what the block is called in its layer."""
        return self.path.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values with stable keys."""
        return {
            "path": self.path,
            "formula": self.formula,
            "notes": list(self.notes),
            "shape": list(self.shape),
            "numbers": None if self.numbers is None else self.numbers.to_dict(),
        }


@dataclass(frozen=True, kw_only=True)
class Addition(Step):
    """What a block made of the residual stream is added to it. `before` is where a recording has the stream without it."""

    added: str
    before: tuple[str, str] | None = None


def number(value: float) -> str:
    """A number of a formula: whole ones with commas, others to six digits.

    >>> number(10000.0), number(0.125), number(1e-06)
    ('10,000', '0.125', '1e-06')
    """
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def dimensions(shape: Shape) -> str:
    """A shape for people.

    >>> dimensions((9, 64))
    '9 x 64'
    """
    return " x ".join(f"{size:,}" for size in shape)
