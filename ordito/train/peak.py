"""How much arithmetic a run takes, and how much of it this machine could do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from ordito.accounting import account
from ordito.spec import Spec

if TYPE_CHECKING:
    from ordito.train.loop import Trainer

_SIZE = 2048
_PASSES = 12


def training_flops(spec: Spec, tokens: int, length: int, learned: int, frozen: bool) -> float:
    """Floating-point operations of an optimizer step over `tokens` in texts of `length`, `learned` of them with logits.

    The backward pass takes twice the forward pass: once for what came in, once for the weights; the second falls away where
    they are frozen. What is computed again (recompute) is not counted, as papers do not (arXiv:2204.02311, appendix B).
    """
    flops = account(spec).flops
    texts = tokens / max(1, length)
    body = flops.forward(length, logits=0).total * texts
    head = (flops.forward(1, logits=1).total - flops.forward(1, logits=0).total) * learned
    return (2 if frozen else 3) * (body + head)


def measured_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations a second of a large matrix product in this type: the best of several, measured now."""
    a = torch.randn(_SIZE, _SIZE, device=device).to(dtype)
    best = 0.0
    for _ in range(_PASSES):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * _SIZE**3 / (time.perf_counter() - started))
    return best


@dataclass(frozen=True)
class Effort:
    """What a step costs, beside what the machine can do: `peak` in operations a second, for products in `kind`."""

    spec: Spec
    length: int
    frozen: bool
    kind: str
    peak: float

    @classmethod
    def of(cls, trainer: Trainer) -> Effort:
        """That of a run; the machine is measured now."""
        module, device = trainer.subject.module, trainer.device
        with trainer.autocast():
            kind = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
        frozen = trainer.subject.adapters is not None
        name = str(kind).removeprefix("torch.")
        return cls(module.spec, trainer.config.length, frozen, name, measured_peak(kind, device))

    @property
    def said(self) -> str:
        """In a clause."""
        return f"products in {self.kind}; this machine's peak is {self.peak / 1e9:,.0f} GFLOP/s"

    def share(self, record: Mapping[str, Any]) -> float:
        """The part of the peak that a step reached."""
        flops = training_flops(self.spec, record["tokens"], self.length, record["learned"], self.frozen)
        return flops / record["seconds"] / self.peak
