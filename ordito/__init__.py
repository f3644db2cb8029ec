"""Ordito: every open LLM family from one readable codebase. An architecture is data; everything else is a reader of it.

import ordito

model = ordito.load("smollm2")
print(model.chat([{"role": "user", "content": "What is a warp?"}]).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ordito import catalogue, families, spec, train
    from ordito.accounting import account
    from ordito.checkpoint.outline import outline
    from ordito.comparing import compare
    from ordito.drawing import draw
    from ordito.engine.engine import Engine
    from ordito.fitting import fit
    from ordito.lens import trace
    from ordito.loading import load
    from ordito.model import Conversation, Model
    from ordito.saving import save

__version__ = "0.1.0"

_HOMES = {
    "Conversation": "ordito.model",
    "Engine": "ordito.engine.engine",
    "Model": "ordito.model",
    "account": "ordito.accounting",
    "compare": "ordito.comparing",
    "draw": "ordito.drawing",
    "fit": "ordito.fitting",
    "load": "ordito.loading",
    "outline": "ordito.checkpoint.outline",
    "save": "ordito.saving",
    "trace": "ordito.lens",
}
"""Public name -> the module that has it, which is imported when the name is first used: `import ordito` stays cheap."""
_ROOMS = ("catalogue", "errors", "families", "spec", "train")

__all__ = [
    "Conversation",
    "Engine",
    "Model",
    "__version__",
    "account",
    "catalogue",
    "compare",
    "draw",
    "families",
    "fit",
    "load",
    "outline",
    "save",
    "spec",
    "trace",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"ordito.{name}")
    raise AttributeError(f"module 'ordito' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_ROOMS})
