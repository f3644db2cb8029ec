"""Which runtimes there are, fastest first, and which of them are installed."""

from __future__ import annotations

from importlib.util import find_spec

from ordito.checkpoint.adapter import Adapter
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import MissingDependencyError, OrditoError, did_you_mean
from ordito.runtime import Runtime

BACKENDS = {"torch": "torch"}
"""Backend -> the package that it needs; the first one installed is the default."""


def default_backend() -> str:
    """The fastest backend that is installed."""
    return next((name for name, package in BACKENDS.items() if find_spec(package)), "torch")


def load_runtime(
    checkpoint: Checkpoint, backend: str | None = None, dtype: str = "float32", adapter: Adapter | None = None
) -> Runtime:
    """A runtime for `checkpoint` on the named backend, or on the fastest that is installed; an `adapter` lies beside it.

    Raises `OrditoError` for an unknown backend and `MissingDependencyError` for one that is not installed.
    """
    backend = backend or default_backend()
    if backend not in BACKENDS:
        raise OrditoError(
            f"unknown backend {backend!r}, expected one of {', '.join(BACKENDS)}{did_you_mean(backend, BACKENDS)}"
        )
    if not find_spec(BACKENDS[backend]):
        raise MissingDependencyError(f"the backend {backend!r} needs PyTorch: pip install torch")
    from ordito.nn.runtime import TorchRuntime

    return TorchRuntime(checkpoint, dtype, adapter)
