"""Descriptions of norms."""

from __future__ import annotations

from ordito.drawing.sizes import number
from ordito.spec import Norm


def norm_title(norm: Norm) -> str:
    """RMSNorm or LayerNorm."""
    return {"rms": "RMSNorm", "layer": "LayerNorm"}[norm.kind]


def norm_settings(norm: Norm) -> str:
    """All other settings of a norm."""
    settings = [f"ε {number(norm.eps)}"]
    if not norm.weight:
        settings.append("no weight")
    elif norm.weight_offset:
        settings.append(f"{number(norm.weight_offset)} + w")
    if norm.bias:
        settings.append("bias")
    if norm.scale_in_fp32:
        settings.append("fp32")
    return ", ".join(settings)
