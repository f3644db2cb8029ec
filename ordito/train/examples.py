"""Training data as tokens: texts with their loss masks, and examples made of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Text:
    """Token ids (T,), int32, and the loss mask `learn` (T,), bool: true for tokens that are learned, that is, have a loss.

    The first token is predicted from nothing and never has a loss. `extra` holds further arrays (T, ...), a row per token: a
    teacher's predictions, for instance.
    """

    ids: NDArray[np.int32]
    learn: NDArray[np.bool_]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in (("learn", self.learn), *self.extra.items()):
            assert len(array) == len(self.ids), f"{name} has {len(array)} rows for {len(self.ids)} tokens"
        if len(self.learn) and self.learn[0]:
            self.learn[0] = False

    @classmethod
    def of(cls, ids: Sequence[int], learn: Sequence[bool] | bool = True, **extra: NDArray[Any]) -> Text:
        """A text from plain lists; `learn` may be one value for all tokens."""
        marks = np.full(len(ids), learn) if isinstance(learn, bool) else np.array(learn, dtype=np.bool_)
        return cls(np.array(ids, dtype=np.int32), marks, extra)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Example:
    """The texts of one training example, in an order that the task defines (one text, two to compare, choices), and a label.

    The `label` is the index of a class or of the right choice, or a score; NaN for tasks without labels.
    """

    texts: tuple[Text, ...]
    label: float = float("nan")
