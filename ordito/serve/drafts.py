"""The draft model of a server, for speculative decoding of all models that have its vocabulary."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterable
from pathlib import Path

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ordito.errors import OrditoError, OrditoWarning
from ordito.loading import load
from ordito.model import Model
from ordito.serve.settings import ServerSettings
from ordito.text.from_checkpoint import load_tokenizer


class Drafts:
    """The draft model of the `settings`, if they name one; it is loaded with the first model that generates text.

    Warns, once for each model, of those with another vocabulary; `known` are those that are known before they are loaded.
    Raises `OrditoError` for a draft model that generates no text.
    """

    def __init__(self, settings: ServerSettings, known: Iterable[Checkpoint]) -> None:
        self.settings = settings
        self._model: Model | None = None
        self._lock = threading.Lock()
        self._warned: set[Path] = set()
        if settings.draft is not None:
            self._check(settings.draft, known)

    def of(self, model: Model) -> Model | None:
        """The draft model for another one, None unless both have the same vocabulary. Models are loaded on several threads."""
        name = self.settings.draft
        if name is None or not model.spec.generates:
            return None
        with self._lock:
            if self._model is None:
                self._model = load(name, backend=self.settings.backend, dtype=self.settings.dtype)
        if self._model.tokenizer.vocabulary.tokens == model.tokenizer.vocabulary.tokens:
            return self._model
        self._warn(name, model.checkpoint.path)
        return None

    def _check(self, name: str, known: Iterable[Checkpoint]) -> None:
        draft = open_checkpoint(store.locate(name).path)
        if not draft.spec.generates:
            raise OrditoError(f"--draft {name} makes embeddings only, expected a model that generates text")
        tokens = load_tokenizer(draft).vocabulary.tokens
        for other in known:
            if other.spec.generates and load_tokenizer(other).vocabulary.tokens != tokens:
                self._warn(name, other.path)

    def _warn(self, name: str, path: Path) -> None:
        if path not in self._warned:
            self._warned.add(path)
            message = f"--draft {name} has another vocabulary than {path}, so it is not used for that model"
            warnings.warn(message, OrditoWarning, stacklevel=2)
