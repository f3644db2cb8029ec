"""The models behind one port: loaded when they are asked for, and let go when nobody asks any more."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ordito.checkpoint.store import LocalModel
from ordito.engine.engine import Counts, Engine
from ordito.errors import ModelNotFoundError, OrditoError, OrditoWarning, did_you_mean
from ordito.memory import free_memory
from ordito.model import Model, load, load_tokenizer
from ordito.serve.errors import ApiError
from ordito.serve.settings import ServerSettings
from ordito.units import size

log = logging.getLogger("ordito.serve")

SWEEP_SECONDS = 1.0


class Served:
    """A model that can be asked for by its name, loaded or not."""

    def __init__(self, name: str, local: LocalModel) -> None:
        self.name, self.local = name, local
        self._written = local.path.stat().st_mtime_ns
        self.model: Model | None = None
        self.engine: Engine | None = None
        self.counts = Counts()  # of all engines that it had
        self.loading = asyncio.Lock()
        self.active = 0
        self.turn = asyncio.Lock()  # whose texts are made vectors of
        self.embedding = 0  # requests whose texts are, or wait
        self.used = time.time()
        self.expires: float | None = None
        self.leaving = False  # to be let go as soon as nobody uses it
        self.load_seconds = 0.0

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self.model is not None

    @property
    def written(self) -> int:
        """When its files were written, in nanoseconds; as far as was known, where they are gone."""
        with suppress(OSError):
            self._written = self.local.path.stat().st_mtime_ns
        return self._written

    @property
    def ready(self) -> tuple[Model, Engine]:
        """The model and its engine, while it is in use."""
        assert self.model is not None
        assert self.engine is not None
        return self.model, self.engine


class ModelPool:
    """All models of a server, by name. Names are looked up here and never become paths; nothing is downloaded for a request."""

    def __init__(self, names: Iterable[str], settings: ServerSettings) -> None:
        self.settings = settings
        self.only = [Served(_name(local), local) for local in map(store.locate, dict.fromkeys(names))]
        self.warned: set[Path] = set()  # of models for which the draft guesses nothing
        opened = [self._check(one) for one in self.only]
        if settings.draft is not None:
            self._check_draft(settings.draft, [checkpoint for checkpoint in opened if checkpoint])
        self.found: dict[str, Served] = {}
        self.left_out: set[LocalModel] = set()
        self.drafts: Model | None = None
        self.drafting = threading.Lock()
        self.loading = asyncio.Lock()  # one at a time, or two would count on the same memory
        known = Counter(one.name for one in self.only)
        for name, times in known.items():
            if times > 1:
                raise OrditoError(
                    f"{times} models are called {name!r}, of which clients could ask for one only: rename the others"
                )
        for alias, name in settings.aliases.items() if self.only else ():
            if name not in known:
                raise OrditoError(f"--alias {alias}={name}: this server has no {name!r}, only {', '.join(known)}")

    def _check(self, served: Served) -> Checkpoint | None:
        """Raises what would keep a model from being loaded, as far as it can be known without its weights.

        Gives its files, unless they are an adapter's.
        """
        most = self.settings.memory
        if most is not None and served.local.size > most:
            raise OrditoError(_too_large(served, most))
        return self._opened(served)

    def _opened(self, served: Served) -> Checkpoint | None:
        path = served.local.path
        if path.is_dir() and store.is_adapter(file.name for file in path.iterdir()):
            return None
        try:
            return open_checkpoint(path)
        except OrditoError as error:
            raise OrditoError(f"{served.name} cannot be loaded: {error}") from error

    @property
    def served(self) -> list[Served]:
        """Those that were named, or else all that are on this machine now and can be loaded."""
        if self.only:
            return self.only
        here: dict[str, LocalModel] = {}
        for local in store.installed():
            here.setdefault(local.name, local)
        for name, one in list(self.found.items()):
            if here.get(name) != one.local and not (one.loaded or one.active):
                del self.found[name]  # removed, or another one by now
        for name, local in here.items():
            if name not in self.found and local not in self.left_out:
                self._find(Served(name, local))
        return list(self.found.values())

    def _find(self, served: Served) -> None:
        """A model that is on this machine; what cannot be loaded is left out: one of them shall not spoil the list of all."""
        try:
            self._opened(served)
        except OrditoError as error:
            log.warning("left out: %s", error)
            self.left_out.add(served.local)
        else:
            self.found[served.name] = served

    @property
    def named(self) -> dict[str, Served]:
        """The models by every name that they have here, their own before further ones."""
        models = {one.name: one for one in self.served}
        return models | {alias: models[name] for alias, name in self.settings.aliases.items() if name in models}

    def find(self, name: str | None) -> Served:
        """The model of a name. A server of one model takes any name, unless its names are strict.

        Raises `ModelNotFoundError`.
        """
        named, shown = self.named, (name or "")[:100]
        for spelling in (name, name.removesuffix(":latest")) if name else ():
            if spelling in named:
                return named[spelling]
        if len(models := set(named.values())) == 1 and not self.settings.strict_names:
            return models.pop()
        names = list(named)
        raise ModelNotFoundError(
            f"model {shown!r} not found{did_you_mean(shown, names)}; this server has {', '.join(names) or 'none'}"
        )

    @asynccontextmanager
    async def use(self, name: str | None, keep_alive: float | None = None) -> AsyncIterator[Served]:
        """A model, loaded, which stays so while it is used and `keep_alive` seconds longer (negative: for good)."""
        served = self.find(name)
        served.active += 1
        try:
            async with served.loading:
                if not served.loaded:
                    async with self.loading:
                        await self._load(served)
            yield served
        finally:
            served.active -= 1
            served.used = time.time()
            seconds = self.settings.keep_alive if keep_alive is None else keep_alive
            if served.leaving and not served.active:
                await self.unload(served)
            served.expires = None if seconds is None or seconds < 0 else served.used + seconds

    async def _load(self, served: Served) -> None:
        most = self.settings.memory
        if most is not None and served.local.size > most:
            raise ApiError(500, _too_large(served, most))
        await self._make_room(served.local.size)
        begin, settings = time.perf_counter(), self.settings

        def loaded() -> tuple[Model, Engine]:
            model = load(served.local.path, backend=settings.backend, dtype=settings.dtype)
            limit = settings.cache_limit if settings.cache_limit is not None else free_memory() // 4
            draft = self._draft(model)
            engine = Engine(model, most_together=settings.most_together, cache_limit=limit, cache=settings.cache, draft=draft)
            engine.counts = served.counts
            _ = model.tokenizer  # what is broken is told of now
            return model, engine

        try:
            served.model, served.engine = await asyncio.to_thread(loaded)
        except OrditoError as error:  # no mistake of whoever asks
            log.warning("%s cannot be loaded: %s", served.name, error)
            raise ApiError(500, f"{served.name} cannot be loaded here: {error}") from error
        served.load_seconds = time.perf_counter() - begin

    def _draft(self, model: Model) -> Model | None:
        """The model that guesses for another, where both have one vocabulary."""
        if self.settings.draft is None or not model.spec.generates:
            return None
        with self.drafting:
            if self.drafts is None:
                self.drafts = load(self.settings.draft, backend=self.settings.backend, dtype=self.settings.dtype)
        if self.drafts.tokenizer.vocabulary.tokens == model.tokenizer.vocabulary.tokens:
            return self.drafts
        self._warn_of_draft(self.settings.draft, model.checkpoint.path)
        return None

    def _check_draft(self, name: str, others: Iterable[Checkpoint]) -> None:
        """Raises if a model cannot guess at all, and warns of those for which it will not."""
        draft = open_checkpoint(store.locate(name).path)
        if not draft.spec.generates:
            raise OrditoError(f"--draft {name} makes embeddings only, expected a model that generates text")
        tokens = load_tokenizer(draft).vocabulary.tokens
        for other in others:
            if other.spec.generates and load_tokenizer(other).vocabulary.tokens != tokens:
                self._warn_of_draft(name, other.path)

    def _warn_of_draft(self, name: str, path: Path) -> None:
        """Once of each model: at the start or, if it was not named, when it is loaded."""
        if path not in self.warned:
            self.warned.add(path)
            said = f"--draft {name} has another vocabulary than {path}, for which it guesses nothing"
            warnings.warn(said, OrditoWarning, stacklevel=2)

    async def _make_room(self, needed: int) -> None:
        """Let go of idle models, the one used longest ago first, until another fits. Those in use stay, even beyond it."""
        most = self.settings.memory
        while most is not None and sum(one.local.size for one in self.served if one.loaded) + needed > most:
            idle = [one for one in self.served if one.loaded and not one.active]
            if not idle:
                return
            await self.unload(min(idle, key=lambda one: one.used))

    async def unload(self, served: Served) -> None:
        """Take a model out of memory, as soon as nobody waits for its answers."""
        served.leaving = bool(served.active)
        if served.leaving:
            return
        engine, served.model, served.engine, served.expires = served.engine, None, None, None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    async def sweep(self) -> None:
        """Let go of models whose time is over, for as long as the server runs."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for one in (*self.only, *self.found.values()):
                if one.loaded and not one.active and one.expires is not None and time.time() >= one.expires:
                    await self.unload(one)

    async def close(self) -> None:
        """Let go of all; who still waits for answers gets no more of them."""
        for one in (*self.only, *self.found.values()):
            one.active = 0
            await self.unload(one)


def _too_large(served: Served, most: int) -> str:
    return f"{served.name} takes {size(served.local.size)}, but all models together may take {size(most)} here (--memory)"


def _name(local: LocalModel) -> str:
    if local.source != "path":
        return local.name
    return local.path.stem if local.path.is_file() else local.path.name
