"""Optimizers: AdamW, and Muon for matrices."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ordito.train.config import Config
from ordito.train.placement import by_mesh, full, shard_like

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the quintic iteration (K. Jordan, Muon): steep at zero, so that small singular values rise fast."""


class Muon(torch.optim.Optimizer):
    """Muon: momentum SGD whose updates are orthogonalised (kellerjordan.github.io/posts/muon).

    m = momentum m + g;  u = NS(g + momentum m);  W <- (1 - lr decay) W - lr scale u. NS are Newton-Schulz iterations.
    Matrices stacked along first axes (experts) are orthogonalised one by one.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float,
        steps: int,
        scale: str,
        weight_decay: float,
    ) -> None:
        super().__init__(
            parameters, {"lr": lr, "momentum": momentum, "steps": steps, "scale": scale, "weight_decay": weight_decay}
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                moment = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                nesterov = parameter.grad.add(moment, alpha=group["momentum"])
                update = shard_like(orthogonal(full(nesterov), group["steps"]), parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * _scale(parameter, group["scale"]))


def _scale(parameter: Tensor, rule: str) -> float:
    rows, columns = parameter.shape[-2:]
    return math.sqrt(max(1.0, rows / columns)) if rule == "original" else 0.2 * math.sqrt(max(rows, columns))


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Approximately U V^T of the singular value decomposition U S V^T, (..., rows, columns), by Newton-Schulz iterations.

    In bfloat16 where that is faster than fp32; processors that emulate it are many times slower.
    """
    x = matrix.to(torch.bfloat16) if fast_bfloat16(matrix.device) else matrix.float()
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * (gram @ gram)) @ x
    return (x if wide else x.mT).to(matrix.dtype)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether matrix products are faster in bfloat16 than in fp32: on GPUs, and on CPUs with AMX."""
    if device.type != "cpu":
        return True
    return bool(torch.cpu._is_amx_tile_supported())


def optimizers(config: Config, named: Mapping[str, nn.Parameter], matrices: frozenset[str]) -> list[torch.optim.Optimizer]:
    """The optimizers of a run's trainable parameters. `matrices` names those that Muon, if chosen, takes from AdamW."""
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    by_muon = {name: p for name, p in trained.items() if config.optimizer == "muon" and name in matrices and p.ndim >= 2}
    rest = {name: p for name, p in trained.items() if name not in by_muon}
    # No weight decay of vectors (norms, biases): pulling them to zero does not regularise.
    groups = [
        {"params": [p for p in some if matrix == (p.ndim >= 2)], "weight_decay": config.weight_decay if matrix else 0.0}
        for some in by_mesh(rest.values())
        for matrix in (True, False)
    ]
    created: list[torch.optim.Optimizer] = []
    if filled := [group for group in groups if group["params"]]:
        created.append(torch.optim.AdamW(filled, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True))
    if by_muon:
        muon = config.muon
        created.append(
            Muon(
                by_muon.values(),
                lr=muon.lr,
                momentum=muon.momentum,
                steps=muon.steps,
                scale=muon.scale,
                weight_decay=config.weight_decay,
            )
        )
    for optimizer in created:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return created


def set_rate(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Set every learning rate to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = share * group["peak"]


def tensors_of(optimizers: Iterable[torch.optim.Optimizer], named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Every tensor of the optimizers' states, named `PARAMETER/KEY`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in named.items()}
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in optimizers
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_tensors(
    optimizers: Iterable[torch.optim.Optimizer], named: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore the optimizers' states from the tensors that `tensors_of` returned."""
    owners = {
        parameter: optimizer for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]
    }
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = named[name]
        owners[parameter].state[parameter][key] = shard_like(tensor, parameter)
