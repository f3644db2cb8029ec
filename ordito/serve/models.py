"""The models of a server: loaded at the first request, and unloaded when they have not been used for some time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ordito.checkpoint import store
from ordito.checkpoint.adapter import open_adapter
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ordito.checkpoint.store import LocalModel
from ordito.engine.engine import Counts, Engine
from ordito.errors import ModelNotFoundError, OrditoError, did_you_mean
from ordito.loading import load
from ordito.memory import free_memory
from ordito.model import Model
from ordito.serve.drafts import Drafts
from ordito.serve.errors import ApiError
from ordito.serve.settings import ServerSettings
from ordito.spec import Spec
from ordito.units import size

log = logging.getLogger("ordito.serve")

SWEEP_SECONDS = 1.0


class Facts(NamedTuple):
    """What a model's files say of it before it is loaded; of an adapter, those of its base."""

    path: Path
    spec: Spec
    parameters: int
    generation: Mapping[str, Any]


class Served:
    """A model of a server, loaded or not."""

    def __init__(self, name: str, local: LocalModel) -> None:
        self.name, self.local = name, local
        self._written = local.path.stat().st_mtime_ns
        self.facts: Facts | None = None
        self.model: Model | None = None
        self.engine: Engine | None = None
        self.counts = Counts()  # over all engines that it had: each time that it is loaded, it gets a new one
        self.loading = asyncio.Lock()
        self.active = 0  # requests that use it
        self.embed_lock = asyncio.Lock()  # one batch of texts is embedded at a time
        self.embedding = 0  # embedding requests, running or in the queue
        self.used = time.time()
        self.expires: float | None = None
        self.keep_alive: float | None = None  # the last one that a request asked for since it was loaded
        self.unload_when_idle = False
        self.load_seconds = 0.0

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self.model is not None

    @property
    def written(self) -> int:
        """When its files were written, in nanoseconds; the last known time if they are gone."""
        with suppress(OSError):
            self._written = self.local.path.stat().st_mtime_ns
        return self._written

    @property
    def ready(self) -> tuple[Model, Engine]:
        """The model and its engine; only inside `ModelPool.use`, which keeps them loaded."""
        assert self.model is not None
        assert self.engine is not None
        return self.model, self.engine


class ModelPool:
    """All models of a server, by name: those that were given, or else all that are on this machine.

    The name in a request is looked up here and never becomes a path, and no request downloads anything. Raises
    `ModelNotFoundError` for a given name that does not exist, `OrditoError` for models that cannot be loaded, take too much
    memory or share a name, for a draft model that generates no text, and for an alias of a model that is not served.
    """

    def __init__(self, names: Iterable[str], settings: ServerSettings) -> None:
        self.settings = settings
        self.given = [Served(_name(local), local) for local in map(store.locate, dict.fromkeys(names))]
        opened = [self._check(one) for one in self.given]
        self.drafts = Drafts(settings, [checkpoint for checkpoint in opened if checkpoint])
        self.found: dict[str, Served] = {}
        self.unreadable: dict[LocalModel, int] = {}  # and when their files were written
        self.loading = asyncio.Lock()  # one model at a time, because two would count on the same free memory
        known = Counter(one.name for one in self.given)
        for name, times in known.items():
            if times > 1:
                raise OrditoError(
                    f"{times} models are called {name!r}, but clients choose a model by its name: rename all but one"
                )
        for alias, name in settings.aliases.items() if self.given else ():
            if name not in known:
                raise OrditoError(f"--alias {alias}={name}: this server has no {name!r}, only {', '.join(known)}")

    def _check(self, served: Served) -> Checkpoint | None:
        """The opened checkpoint of a model, None for an adapter.

        Raises `OrditoError` if it cannot be loaded, as far as its headers and its size show.
        """
        limit = self.settings.memory
        if limit is not None and served.local.size > limit:
            raise OrditoError(_too_large(served, limit))
        return self._opened(served)

    def _opened(self, served: Served) -> Checkpoint | None:
        path = served.local.path
        adapts = path.is_dir() and store.is_adapter(file.name for file in path.iterdir())
        try:
            checkpoint = open_checkpoint(_base_of(path) if adapts else path)
            served.facts = facts_of(checkpoint)
        except OrditoError as error:
            raise OrditoError(f"{served.name} cannot be loaded: {error}") from error
        return None if adapts else checkpoint

    @property
    def served(self) -> list[Served]:
        """The given models, or else all that are on this machine now and can be loaded."""
        if self.given:
            return self.given
        here: dict[str, LocalModel] = {}
        for local in store.installed():
            here.setdefault(local.name, local)
        for name, one in list(self.found.items()):
            if here.get(name) != one.local and not (one.loaded or one.active):
                del self.found[name]  # its files were removed, or replaced by another revision
        for name, local in here.items():
            if name not in self.found:
                self._add(name, local)
        return list(self.found.values())

    def _add(self, name: str, local: LocalModel) -> None:
        """Add a model that is on this machine; one that cannot be loaded is logged and left out until its files change, so that
        the list of models does not fail because of it."""
        with suppress(OSError):  # removed since it was listed
            served = Served(name, local)
            if self.unreadable.get(local) == served.written:
                return
            try:
                self._opened(served)
            except OrditoError as error:
                log.warning("left out: %s", error)
                self.unreadable[local] = served.written
            else:
                self.found[name] = served

    @property
    def named(self) -> dict[str, Served]:
        """Name -> model: their own names first, then the aliases."""
        models = {one.name: one for one in self.served}
        return models | {alias: models[name] for alias, name in self.settings.aliases.items() if name in models}

    def find(self, name: str | None) -> Served:
        """The model of a name. A server of a single model accepts any name, unless `strict_names` is set.

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
        """A loaded model, which stays loaded while it is used and `keep_alive` seconds longer (negative: for ever), also after
        requests without a `keep_alive` of their own, as in Ollama.

        Raises `ModelNotFoundError`, and `ApiError` if it cannot be loaded.
        """
        served = self.find(name)
        served.active += 1
        try:
            async with served.loading:
                if not served.loaded:
                    async with self.loading:
                        await self._load(served)
            served.keep_alive = served.keep_alive if keep_alive is None else keep_alive
            yield served
        finally:
            served.active -= 1
            served.used = time.time()
            seconds = self.settings.keep_alive if served.keep_alive is None else served.keep_alive
            if served.unload_when_idle and not served.active:
                await self.unload(served)
            served.expires = None if seconds is None or seconds < 0 else served.used + seconds

    async def _load(self, served: Served) -> None:
        limit = self.settings.memory
        if limit is not None and served.local.size > limit:
            raise ApiError(500, _too_large(served, limit))
        await self._make_room(served.local.size)
        begin, settings = time.perf_counter(), self.settings

        def loaded() -> tuple[Model, Engine]:
            model = load(served.local.path, backend=settings.backend, dtype=settings.dtype)
            limit = settings.cache_limit if settings.cache_limit is not None else free_memory() // 4
            draft = self.drafts.of(model)
            engine = Engine(model, most_together=settings.most_together, cache_limit=limit, cache=settings.cache, draft=draft)
            engine.counts = served.counts
            _ = model.tokenizer  # read now, as generation_config.json is, so that a broken file is an error of loading
            served.facts = facts_of(model.checkpoint)
            return model, engine

        try:
            served.model, served.engine = await asyncio.to_thread(loaded)
        except OrditoError as error:  # not the client's mistake, so not a 400
            raise unreadable(served, error) from error
        served.load_seconds = time.perf_counter() - begin

    async def _make_room(self, needed: int) -> None:
        """Unload idle models, the least recently used first, until `needed` more bytes fit. Models in use stay, even if they do
        not fit then."""
        limit = self.settings.memory
        while limit is not None and sum(one.local.size for one in self.served if one.loaded) + needed > limit:
            idle = [one for one in self.served if one.loaded and not one.active]
            if not idle:
                return
            await self.unload(min(idle, key=lambda one: one.used))

    async def unload(self, served: Served) -> None:
        """Unload a model: now, or as soon as it is idle."""
        served.unload_when_idle = bool(served.active)
        if served.unload_when_idle:
            return
        engine, served.model, served.engine, served.expires = served.engine, None, None, None
        served.keep_alive = None
        if engine is not None:
            await asyncio.to_thread(engine.close)

    async def sweep(self) -> None:
        """Unload models whose `keep_alive` is over, for as long as the server runs."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            for one in (*self.given, *self.found.values()):
                if one.loaded and not one.active and one.expires is not None and time.time() >= one.expires:
                    await self.unload(one)

    async def close(self) -> None:
        """Unload all models, which cancels what they still answer."""
        for one in (*self.given, *self.found.values()):
            one.active = 0
            await self.unload(one)


def _base_of(adapter: Path) -> Path:
    """The path of an adapter's base, which must be here already: no request may download it. Raises `OrditoError`."""
    base = open_adapter(adapter).base
    if base is None:
        raise OrditoError(f"{adapter} is an adapter that does not say of which model: serve its base, or merge them first")
    return store.locate(base, offline=True).path


def facts_of(checkpoint: Checkpoint) -> Facts:
    """What the list of models says of a checkpoint. Raises `OrditoError` for a generation_config.json that cannot be read."""
    return Facts(checkpoint.path, checkpoint.spec, sum(checkpoint.encodings.values()), checkpoint.generation)


def unreadable(served: Served, error: OrditoError) -> ApiError:
    """The error for a client whose model cannot be loaded; only the log says why, because reasons name paths of the server."""
    log.warning("%s cannot be loaded: %s", served.name, error)
    return ApiError(500, f"{served.name} cannot be loaded: the server's log says why")


def _too_large(served: Served, limit: int) -> str:
    return f"{served.name} takes {size(served.local.size)}, but all models together may take {size(limit)} here (--memory)"


def _name(local: LocalModel) -> str:
    if local.source != "path":
        return local.name
    return local.path.stem if local.path.is_file() else local.path.name
