"""The best evaluation of a run so far, and when it is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Best:
    """The lowest `eval_loss` so far and its step, None before the first; `waited` evaluations have since not been better.

    `enough`: so many that the run has ended before its last step.
    """

    loss: float | None = None
    step: int | None = None
    waited: int = 0
    enough: bool = False

    def improved(self, record: Mapping[str, Any]) -> bool:
        """Take note of a step's numbers; whether they hold an evaluation that is the best so far."""
        loss = record.get("eval_loss")
        if loss is None:
            return False
        if self.loss is not None and loss >= self.loss:
            self.waited += 1
            return False
        self.loss, self.step, self.waited = loss, record["step"], 0
        return True
