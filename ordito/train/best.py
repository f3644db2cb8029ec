"""The best evaluation of a run so far, for early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """The lowest `eval_loss` so far and its step (None before the first), and the number of evaluations `waited` since.

    `enough`: the run was stopped early because `waited` reached its patience.
    """

    loss: float | None = None
    step: int | None = None
    waited: int = 0
    enough: bool = False

    def improved(self, record: Mapping[str, Any]) -> bool:
        """Update from the metrics of a step; returns whether they contain the best evaluation so far."""
        loss = record.get("eval_loss")
        if loss is None:
            return False
        if not loss < (math.inf if self.loss is None else self.loss):  # NaN is no better than anything
            self.waited += 1
            return False
        self.loss, self.step, self.waited = loss, record["step"], 0
        return True
