"""The steps of a trace: formulas with the settings of a model, and the recorded values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ordito.spec import Shape

if TYPE_CHECKING:
    from ordito.lens.numbers import Numbers


@dataclass(frozen=True, kw_only=True)
class Where:
    """The traced token: its position, and the number of tokens of the text; None without a text.

    `source_length` is the number of tokens of an encoder's text; `caches` says whether keys and values are cached.
    """

    position: int | None = None
    length: int | None = None
    source_length: int | None = None
    caches: bool = False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One computation for the traced token.

    `path` is the canonical path of its block; `formula` contains the model's settings, and `notes` add what it cannot express;
    `shape` is that of the result for this token; `recorded` is the key of the result in a `Recording`; `numbers` summarise its
    values.
    """

    path: str
    formula: str
    notes: tuple[str, ...] = ()
    shape: Shape = ()
    recorded: tuple[str, str] | None = None
    numbers: Numbers | None = None

    @property
    def block(self) -> str:
        """The last part of the path: the block's name in its layer."""
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
    """The addition of a block's output to the residual stream. `before` is the key of the stream before it in a recording."""

    added: str
    before: tuple[str, str] | None = None


def number(value: float) -> str:
    """A number in a formula: integers with commas, others with six significant digits.

    >>> number(10000.0), number(0.125), number(1e-06)
    ('10,000', '0.125', '1e-06')
    """
    return f"{int(value):,}" if value == int(value) and abs(value) < 1e15 else f"{value:.6g}"


def dimensions(shape: Shape) -> str:
    """A shape as text.

    >>> dimensions((9, 64))
    '9 x 64'
    """
    return " x ".join(f"{size:,}" for size in shape)
