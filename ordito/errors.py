"""The few exceptions that a user sees: each message is one sentence that says what, where, got, expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OrditoError(ValueError):
    """A mistake in what came from outside: input, files, names. The command line prints the message and nothing else."""


class SpecError(OrditoError):
    """An architecture that cannot exist: a size, a name or a combination of blocks that contradicts itself."""


class ConfigError(OrditoError):
    """A configuration (config.json, GGUF metadata) that a family cannot turn into a spec."""


class CheckpointError(OrditoError):
    """A weights file that is damaged, hostile, incomplete or does not fit its spec."""


class ModelNotFoundError(OrditoError):
    """A model name or path that resolves to nothing."""


class DownloadError(OrditoError):
    """A model that could not be fetched, verified or stored."""


class TokenizerError(OrditoError):
    """A vocabulary that cannot be read, or text that it cannot carry."""


class TemplateError(OrditoError):
    """A chat template that is broken, forbidden, or exceeds its limits."""


class ContextError(OrditoError):
    """A prompt of so many `tokens` that it does not fit into the model's `context`, where the numbers are known."""

    def __init__(self, message: str, tokens: int | None = None, context: int | None = None) -> None:
        super().__init__(message)
        self.tokens, self.context = tokens, context


class MissingDependencyError(OrditoError):
    """A feature whose optional dependency is not installed."""


class OrditoWarning(UserWarning):
    """Something was left unused or chosen for the user, who should know."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause to append to an error about an unknown name: near names if there are some, else nothing.

    >>> did_you_mean("lama", ["llama", "gemma"])
    '; did you mean llama?'
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message about a name of this kind that is not among the known ones.

    >>> unknown("backend", "nativ", ["native", "torch"])
    "unknown backend 'nativ', expected one of native, torch; did you mean native?"
    """
    names = list(known)
    return f"unknown {kind} {name!r}, expected one of {', '.join(names)}{did_you_mean(name, names)}"
