"""The exceptions that users see. Each message is one sentence: what is wrong, where, got, expected, what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class OrditoError(ValueError):
    """Invalid input, files or names, and the base of all others here. The command line prints only the message."""


class SpecError(OrditoError):
    """An architecture that cannot exist: a size, a name or a combination of blocks that contradicts itself."""


class ConfigError(OrditoError):
    """A configuration (config.json, GGUF metadata) that a family cannot turn into a spec."""


class CheckpointError(OrditoError):
    """A weights file that is damaged, hostile, incomplete or does not fit its spec."""


class ModelNotFoundError(OrditoError):
    """A model name or path for which there is no model."""


class DownloadError(OrditoError):
    """A model that could not be fetched, verified or stored."""


class TokenizerError(OrditoError):
    """A vocabulary that cannot be read, or text that it cannot encode."""


class NoTokenizerError(TokenizerError):
    """Files of a model without a vocabulary: its numbers can be computed, but no text can be read."""


class TemplateError(OrditoError):
    """A chat template that is broken, forbidden, or exceeds its limits."""


class ContextError(OrditoError):
    """A prompt of `tokens` tokens that does not fit into a context of `context` tokens; None where a number is unknown."""

    def __init__(self, message: str, tokens: int | None = None, context: int | None = None) -> None:
        super().__init__(message)
        self.tokens, self.context = tokens, context


class MissingDependencyError(OrditoError):
    """A feature whose optional dependency is not installed."""


class OrditoWarning(UserWarning):
    """Something was ignored, or chosen automatically, that the user should know of."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A clause to append to an error about an unknown name: up to three similar names, or "" if there are none.

    >>> did_you_mean("lama", ["llama", "gemma"])
    '; did you mean llama?'
    """
    near = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message of an error about a name that is not one of the known names of its kind.

    >>> unknown("backend", "nativ", ["native", "torch"])
    "unknown backend 'nativ', expected one of native, torch; did you mean native?"
    """
    names = list(known)
    return f"unknown {kind} {name!r}, expected one of {', '.join(names)}{did_you_mean(name, names)}"
