"""The settings with which the command line generates text, and their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ordito.errors import OrditoError, unknown

DEFAULTS: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "seed": None,
    "max_tokens": 1024,
    "stop": [],
}
"""Used where neither the user nor the checkpoint's generation_config.json sets a value."""

KINDS: dict[str, type] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "max_tokens": int,
}

ALIASES = {"num_predict": "max_tokens", "repeat_penalty": "repetition_penalty"}
"""Ollama's name of a setting -> ours."""


@dataclass
class Settings:
    """Each setting: as the user chose it, else as generation_config.json recommends it, else its default."""

    chosen: dict[str, Any]
    recommended: Mapping[str, Any]

    def all(self) -> dict[str, Any]:
        """Every setting with its value."""
        kept = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        recommended = {name: self.recommended[name] for name in kept if self.recommended.get(name) is not None}
        if self.recommended.get("do_sample") is False:
            recommended["temperature"] = 0.0
        return DEFAULTS | recommended | {name: value for name, value in self.chosen.items() if value is not None}

    def set(self, name: str, text: str) -> str:
        """Set a setting to a value that the user typed, and return its name.

        Raises `OrditoError` for an unknown name or a wrong value.
        """
        from ordito.engine.sampling import Sampling

        name = ALIASES.get(name, name)
        if name == "stop":
            self.chosen["stop"] = [*self.chosen.get("stop", []), text] if text else []
            return name
        if name not in KINDS:
            raise OrditoError(unknown("parameter", name, DEFAULTS))
        try:
            value = KINDS[name](text)
        except ValueError:
            kind = "a whole number" if KINDS[name] is int else "a number"
            raise OrditoError(f"{name} is {text!r}, expected {kind}") from None
        if name == "max_tokens":
            if value < 1:
                raise OrditoError(f"max_tokens is {value}, expected at least 1")
        else:
            Sampling(**{name: value})  # checks the range
        self.chosen[name] = value
        return name
