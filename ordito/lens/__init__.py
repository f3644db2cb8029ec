"""Looking inside a running model: activations of every module on a text, and a trace of one token through all steps."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ordito.lens.tracing import Trace, trace

if TYPE_CHECKING:
    from ordito.lens.recording import Recording, record

__all__ = ["Recording", "Trace", "record", "trace"]


def __getattr__(name: str) -> Any:
    """Names that need PyTorch are imported on first use."""
    if name in ("Recording", "record"):
        return getattr(importlib.import_module("ordito.lens.recording"), name)
    raise AttributeError(f"module 'ordito.lens' has no attribute {name!r}")
