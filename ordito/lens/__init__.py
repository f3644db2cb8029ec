"""Looking inside a running model: what every module gave for a text, and one token followed through all of it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ordito.lens.tracing import Trace, trace

if TYPE_CHECKING:
    from ordito.lens.recording import Recording, record

__all__ = ["Recording", "Trace", "record", "trace"]


def __getattr__(name: str) -> Any:
    """What needs PyTorch is imported when it is first used."""
    if name in ("Recording", "record"):
        return getattr(importlib.import_module("ordito.lens.recording"), name)
    raise AttributeError(f"module 'ordito.lens' has no attribute {name!r}")
