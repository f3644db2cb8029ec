"""The interface of a runtime, of which there are two: `ordito.native` (C++, on CPUs) and `ordito.nn` (PyTorch).

A backend loads a checkpoint into a `Runtime`; `ordito.engine.backends` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ordito.errors import OrditoError, did_you_mean
from ordito.spec import Spec

Floats = NDArray[np.float32]


def check_dtype(dtype: str, known: Iterable[str], backend: str) -> None:
    """Raise `OrditoError` for a dtype that a backend does not support."""
    names = list(known)
    if dtype not in names:
        told = f"unknown dtype {dtype!r} of the {backend} backend, expected one of {', '.join(names)}"
        raise OrditoError(told + did_you_mean(dtype, names))


def checked_ids(token_ids: Sequence[int], vocab_size: int) -> list[int]:
    """Token ids as a list. Raises `OrditoError` for anything but one or more whole numbers from 0 to `vocab_size` - 1."""
    try:
        ids = np.asarray(token_ids)
    except ValueError:
        raise OrditoError("got token ids of lists that differ in length, expected one list of whole numbers") from None
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise OrditoError(
            f"got token ids of shape {ids.shape} and type {ids.dtype}, expected a list of whole numbers, not empty"
        )
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise OrditoError(f"got token ids from {ids.min()} to {ids.max()}, expected 0 to {vocab_size - 1}")
    return [int(id) for id in ids]


class Cached(Protocol):
    """The KV cache of one sequence, which grows as `Runtime.step` reads more tokens."""

    @property
    def length(self) -> int:
        """Tokens that are cached."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; a runtime may have to forget more, as `length` then says."""

    def fork(self, length: int) -> Cached:
        """A new sequence with the first `length` tokens of this one, or fewer, as its `length` says. This one stays."""


class Session(Protocol):
    """One sequence together with its runtime: feed tokens, get the next logits."""

    @property
    def length(self) -> int:
        """Tokens that are cached."""

    def feed(self, token_ids: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens; returns the logits (V,) after the last of them. `greatest` is that of `Runtime.step`."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; a runtime may have to forget more, as `length` then says."""


class Runtime(Protocol):
    """A model that is loaded and ready to compute."""

    spec: Spec
    reads_whole: bool
    """Whether a prompt must be read in one step, because later tokens change the results of earlier ones.

    So it is with attention that is not causal, with rope whose frequencies depend on the length, and with experts that have a
    capacity.
    """

    spared: int
    """Bytes of weights that a step does not read if it is asked for a few of the largest logits only (`greatest`)."""

    def sequence(self, source: Sequence[int] | None = None, cache: str | None = None) -> Any:
        """An empty `Cached`. `cache` is the type of keys and values: f32, f16, q8 or int16.

        An encoder-decoder needs the token ids of a `source`, which its encoder reads.
        """

    def step(self, parts: Sequence[tuple[Any, Sequence[int]]], wanted: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens of several sequences as one batch; returns logits (len(wanted), V).

        The tokens of all `parts` (sequence, token ids) are the rows of the batch, in order; `wanted` are the rows, ascending,
        whose next-token logits are returned. They depend on the row's own sequence alone, not on the rest of the batch.

        With `greatest` > 0 the caller needs only so many of the largest logits of each row; a runtime may give minus infinity
        for the others.
        """

    def cache_bytes(self) -> int:
        """Bytes of the KV caches of all models, shared pages counted once; 0 where the runtime cannot tell."""

    def session(self, source: Sequence[int] | None = None) -> Session:
        """An empty sequence to feed tokens to. An encoder-decoder needs a `source`, as in `sequence`."""

    def logits(self, token_ids: Sequence[int], source: Sequence[int] | None = None) -> Floats:
        """Logits (T, V) after each token, those of the decoder where there is a `source`."""

    def hidden(self, texts: Sequence[Sequence[int]], source: Sequence[int] | None = None) -> list[Floats]:
        """Hidden states (T, D) of each text, after the last norm; texts may differ in length.

        Those of an encoder-decoder are the encoder's, or, with a `source`, those of the decoder that reads it.
        """

    def transform(self, vectors_ND: Floats) -> Floats:
        """Apply the dense maps of the model's pooling to vectors (N, D), giving (N, D')."""

    def weights(self) -> dict[str, Floats]:
        """Every tensor of the model by its canonical name, in fp32."""
