"""Model FLOPs utilisation (MFU): the arithmetic of a training step against the peak of this machine."""

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
    """FLOPs of an optimizer step on `tokens` tokens in texts of `length`; logits are computed for `learned` of them.

    The backward pass takes as many as the forward pass for the gradients of inputs, and again as many for those of weights,
    unless these are frozen. Recomputation is not counted, as in the definition of MFU (PaLM, arXiv:2204.02311, appendix B).
    """
    flops = account(spec).flops
    texts = tokens / max(1, length)
    body = flops.forward(length, logits=0).total * texts
    head = (flops.forward(1, logits=1).total - flops.forward(1, logits=0).total) * learned
    return (2 if frozen else 3) * (body + head)


def measured_peak(dtype: torch.dtype, device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product in `dtype`: the best of several, measured now."""
    a = torch.randn(_SIZE, _SIZE, device=device).to(dtype)
    best = 0.0
    for _ in range(_PASSES):
        started = time.perf_counter()
        (a @ a)[0, 0].item()
        best = max(best, 2 * _SIZE**3 / (time.perf_counter() - started))
    return best


@dataclass(frozen=True)
class Effort:
    """The cost of a step and the `peak` of the machine, in FLOP/s, for matrix products in the dtype named `kind`."""

    spec: Spec
    length: int
    frozen: bool
    kind: str
    peak: float

    @classmethod
    def of(cls, trainer: Trainer) -> Effort:
        """The effort of a run; the machine's peak is measured now."""
        module, device = trainer.subject.module, trainer.device
        with trainer.autocast():
            kind = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32
        frozen = trainer.subject.adapters is not None
        name = str(kind).removeprefix("torch.")
        return cls(module.spec, trainer.config.length, frozen, name, measured_peak(kind, device))

    @property
    def said(self) -> str:
        """A clause for the user."""
        return f"products in {self.kind}; this machine's peak is {self.peak / 1e9:,.0f} GFLOP/s"

    def share(self, record: Mapping[str, Any]) -> float:
        """The MFU of a step, from its metrics: the share of the peak that it reached."""
        flops = training_flops(self.spec, record["tokens"], self.length, record["learned"], self.frozen)
        return flops / record["seconds"] / self.peak
