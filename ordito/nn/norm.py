"""Linear maps, tables, norms and activations. Parameters are made uninitialised; `Transformer` or a checkpoint sets them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito import spec
from ordito.nn.lean import rms_norm
from ordito.nn.products import linear, product_type
from ordito.nn.step import Step


def gelu_sigmoid(x: Tensor, slope: float = spec.GELU_SIGMOID_SLOPE) -> Tensor:
    """x * sigmoid(slope * x), (...): an approximation of GELU (arXiv:1606.08415, section 2)."""
    return x * torch.sigmoid(slope * x)


ACTIVATIONS: dict[spec.Activation, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_sigmoid": gelu_sigmoid,
    "relu": F.relu,
    "tanh": torch.tanh,
}


AdapterFunction = Callable[[Tensor, Tensor, Callable[[], Tensor], Tensor | None], Tensor]
"""An adapter of a linear map: (x (n, in), y = W x + b (n, out), a function that returns W, b) -> the changed y (n, out).

It may write into y.
"""


class Linear(nn.Linear):
    """A linear map y = W x (+ b), uninitialised, with the active `adapters` (LoRA), if any."""

    adapters: tuple[AdapterFunction, ...] = ()

    def reset_parameters(self) -> None:
        """Do nothing: the values are about to be replaced."""

    def base(self, x: Tensor) -> Tensor:
        """W x + b, without adapters."""
        return linear(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if not self.adapters:
            return self.base(x)
        x_ni = x.reshape(-1, self.in_features)
        y_no = self.base(x_ni)
        for adapt in self.adapters:
            y_no = adapt(x_ni, y_no, lambda: self.weight, self.bias)
        return y_no.view(*x.shape[:-1], self.out_features)


class Table(nn.Embedding):
    """An embedding table (rows, D), uninitialised, with the active `adapters` (LoRA), if any."""

    adapters: tuple[AdapterFunction, ...] = ()

    def reset_parameters(self) -> None:
        """Do nothing: the values are about to be replaced."""

    def forward(self, ids: Tensor) -> Tensor:
        """(...) -> (..., D)."""
        if not self.adapters:
            return super().forward(ids)
        rows_nD = super().forward(ids.flatten())
        for adapt in self.adapters:
            rows_nD = adapt(ids.flatten(), rows_nD, lambda: self.weight, None)
        return rows_nD.view(*ids.shape, self.embedding_dim)


class Norm(nn.Module):
    """`spec.Norm`."""

    def __init__(self, block: spec.Norm) -> None:
        super().__init__()
        self.block = block
        self.weight = nn.Parameter(torch.empty(block.d_model)) if block.weight else None
        self.bias = nn.Parameter(torch.empty(block.d_model)) if block.bias else None

    def initialise(self) -> None:
        """Set the scale to one and the bias to zero."""
        if self.weight is not None:
            nn.init.constant_(self.weight, 1.0 - self.block.weight_offset)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        """Normalise x over its last axis, (..., D); under autocast the result has the dtype of the matrix products after it."""
        b = self.block
        if b.kind == "rms" and self.weight is not None and not b.bias and x.dtype == torch.float32 and torch.is_grad_enabled():
            scale = self.weight + b.weight_offset if b.weight_offset else self.weight
            return rms_norm(x, scale, b.eps, product_type(x))
        y = x.float()
        if self.block.kind == "layer":
            y = y - y.mean(dim=-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + self.block.eps)
        if not self.block.scale_in_fp32:
            y = y.to(x.dtype)
        if self.weight is not None:
            weight = self.weight.float() if self.block.scale_in_fp32 else self.weight
            y = y * (weight + self.block.weight_offset if self.block.weight_offset else weight)
        if self.bias is not None:
            y = y + self.bias
        return y.to(product_type(x))


class Dense(Linear):
    """`spec.Dense`."""

    def __init__(self, block: spec.Dense) -> None:
        super().__init__(block.d_in, block.d_out, bias=block.bias)
        self.block = block

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        """act(W x + b), (..., d_in) -> (..., d_out)."""
        y = super().forward(x)
        return ACTIVATIONS[self.block.activation](y) if self.block.activation else y
