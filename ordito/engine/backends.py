"""Which runtimes there are, fastest first, and which of them are installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import MissingDependencyError, OrditoError, unknown
from ordito.runtime import Runtime, check_dtype

if TYPE_CHECKING:
    from ordito.checkpoint.adapter import Adapter


@dataclass(frozen=True)
class Backend:
    """A runtime: the module that it `needs` and how to `install` it, its arithmetic, whether `adapters` can be applied
    without merging, and whether the KV cache can have another type than the arithmetic (`caches`)."""

    needs: str
    install: str
    dtypes: tuple[str, ...]
    adapters: bool
    caches: bool
    load: Callable[[Checkpoint, str | None, Adapter | None, int | None], Runtime]


def _native(checkpoint: Checkpoint, dtype: str | None, adapter: Adapter | None, threads: int | None) -> Runtime:
    from ordito.native.runtime import NativeRuntime

    return NativeRuntime(checkpoint, dtype, threads=threads)


def _torch(checkpoint: Checkpoint, dtype: str | None, adapter: Adapter | None, threads: int | None) -> Runtime:
    from ordito.nn.runtime import TorchRuntime

    return TorchRuntime(checkpoint, dtype or "float32", adapter, threads)


BACKENDS = {
    "native": Backend(
        needs="ordito._core",
        install="the compiled part of Ordito: pip install ordito, with a C++ compiler",
        dtypes=("int8", "int12", "float32"),
        adapters=False,
        caches=True,
        load=_native,
    ),
    "torch": Backend(
        needs="torch",
        install="PyTorch: pip install 'ordito[torch]'",
        dtypes=("float32", "bfloat16", "float16"),
        adapters=True,
        caches=False,
        load=_torch,
    ),
}
"""Name -> backend; the first one that is installed is the default."""


def default_backend() -> str:
    """The fastest backend that is installed."""
    return next((name for name, backend in BACKENDS.items() if is_installed(backend.needs)), next(iter(BACKENDS)))


def named_backend(name: str) -> Backend:
    """The backend of a name. Raises `OrditoError` where there is none."""
    if name not in BACKENDS:
        raise OrditoError(unknown("backend", name, BACKENDS))
    return BACKENDS[name]


def is_installed(module: str) -> bool:
    """Whether a module can be imported, found without importing it; an import hook may forbid it."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def check_settings(backend: str | None, dtype: str | None, cache: str | None) -> None:
    """Raises what would be wrong with these settings of whatever model, before any is loaded."""
    name = default_backend() if backend is None else backend
    chosen = named_backend(name)
    if not is_installed(chosen.needs):
        raise MissingDependencyError(f"the backend {name!r} needs {chosen.install}")
    if dtype is not None:
        check_dtype(dtype, chosen.dtypes, name)
    if cache is not None and not chosen.caches:
        raise OrditoError(f"the backend {name!r} keeps keys and values in the type of its weights, got cache {cache!r}")


def load_runtime(
    checkpoint: Checkpoint,
    backend: str | None = None,
    dtype: str | None = None,
    adapter: Adapter | None = None,
    *,
    threads: int | None = None,
) -> Runtime:
    """A runtime for `checkpoint` on the named backend, or on the fastest that is installed; an `adapter` stays unmerged.

    `dtype` is that of its arithmetic, `threads` how many compute: the backend's own choice if not given. Raises `OrditoError`
    for an unknown backend, or one that cannot have adapters, and `MissingDependencyError` for one that is not installed.
    """
    if backend is None:
        backend = default_backend() if adapter is None else "torch"
    chosen = named_backend(backend)
    if adapter is not None and not chosen.adapters:
        raise OrditoError(f"the backend {backend!r} has no adapters beside its weights: merge it, or use backend='torch'")
    check_settings(backend, dtype, None)
    return chosen.load(checkpoint, dtype, adapter, threads)


def cache_bytes() -> int:
    """Bytes that all sequences of the native runtime hold, of whichever model."""
    from ordito import _core

    return _core.cache_bytes()
