"""What is learned from, as tokens: texts, and examples made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Text:
    """Token ids (T,), int32, and which of them are learned (T,), bool: predicted from the tokens before them.

    The first token has nothing before it and is never learned. `beside` holds more for each token, (T, ...): what a teacher
    said of it, say.
    """

    ids: NDArray[np.int32]
    learn: NDArray[np.bool_]
    beside: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, array in (("learn", self.learn), *self.beside.items()):
            assert len(array) == len(self.ids), f"{name} has {len(array)} rows for {len(self.ids)} tokens"
        if len(self.learn) and self.learn[0]:
            self.learn[0] = False

    @classmethod
    def of(cls, ids: Sequence[int], learn: Sequence[bool] | bool = True, **beside: NDArray[Any]) -> Text:
        """A text of plain lists; `learn` may be one answer for all tokens."""
        marks = np.full(len(ids), learn) if isinstance(learn, bool) else np.array(learn, dtype=np.bool_)
        return cls(np.array(ids, dtype=np.int32), marks, beside)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Example:
    """Texts that belong together, in the order that their task gives them (one; two to compare; a choice of many), and a label.

    The `label` is a class, the number of the right choice, or a score; NaN where the texts are all that there is.
    """

    texts: tuple[Text, ...]
    label: float = float("nan")
