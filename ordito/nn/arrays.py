"""Tensors as numpy arrays."""

from __future__ import annotations

from torch import Tensor

from ordito.runtime import Floats


def floats_of(tensor: Tensor) -> Floats:
    """The values of a tensor in fp32, on the CPU and without its graph; they may share its memory."""
    values: Floats = tensor.detach().float().cpu().numpy()
    return values
