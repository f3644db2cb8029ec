"""Training: one loop, small objectives, any spec.

import ordito

ordito.train.fit("sft", model="smollm2", data="chats.jsonl", output="my-model", lr=1e-4)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ordito.errors import MissingDependencyError

if TYPE_CHECKING:
    from ordito.train.config import Config, config_from
    from ordito.train.plan import Plan, planned
    from ordito.train.prediction import predict
    from ordito.train.run import Result, fit

_HOMES = {
    "Config": "config",
    "Plan": "plan",
    "Result": "run",
    "config_from": "config",
    "fit": "run",
    "planned": "plan",
    "predict": "prediction",
}
"""Public name -> its module, imported when the name is first used, so that `ordito.train` imports without PyTorch."""

__all__ = ["Config", "Plan", "Result", "config_from", "fit", "planned", "predict"]

_NEEDED = ("torch", "yaml")


def _are_installed() -> bool:
    from ordito.engine.backends import is_installed

    return all(map(is_installed, _NEEDED))


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ordito.train' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"ordito.train.{_HOMES[name]}"), name)
    except ImportError as error:
        if error.name not in _NEEDED and _are_installed():
            raise
        raise MissingDependencyError("training needs PyTorch: pip install 'ordito[train]'") from None
