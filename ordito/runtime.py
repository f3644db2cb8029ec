"""What computes: the seam behind which PyTorch stands today and the native runtime will.

A backend gives a `Runtime` for a checkpoint; `ordito.engine.backends` lists them.
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
    """Raises `OrditoError` for an arithmetic that a backend does not know."""
    names = list(known)
    if dtype not in names:
        told = f"unknown dtype {dtype!r} of the {backend} backend, expected one of {', '.join(names)}"
        raise OrditoError(told + did_you_mean(dtype, names))


class Cached(Protocol):
    """The keys and values of one text, which grows as a runtime reads more of it."""

    @property
    def length(self) -> int:
        """Tokens that are cached."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; a runtime may have to forget more, as `length` then says."""

    def fork(self, length: int) -> Cached:
        """Another sequence that begins with the first `length` tokens of this one, or with fewer, as its `length` says."""


class Session(Protocol):
    """One sequence, and how it is read."""

    @property
    def length(self) -> int:
        """Tokens that are cached."""

    def feed(self, token_ids: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens; returns the logits (V,) that follow the last of them. `greatest` is that of `Runtime.step`."""

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens; a runtime may have to forget more, as `length` then says."""


class Runtime(Protocol):
    """A model that is ready to compute."""

    spec: Spec
    reads_whole: bool
    """Whether what comes later in a text changes what came before, so that a prompt must be read in one step."""

    spared: int
    """Bytes of weights that a step need not read where only a few of the greatest logits are asked of it."""

    def sequence(self, source: Sequence[int] | None = None, cache: str | None = None) -> Any:
        """An empty `Cached`; of an encoder-decoder, one that answers the `source`. `cache`: f32, f16 or q8."""

    def step(self, parts: Sequence[tuple[Any, Sequence[int]]], wanted: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens of several sequences at once.

        The tokens of all parts are the rows of one batch; logits (wanted, V) come after those rows that are `wanted`, which
        are in order. What they are depends on nothing but the sequence that they belong to.

        With `greatest`, no more is asked of each row than its so many greatest logits: a runtime may give minus infinity for
        any others, where it can do without them.
        """

    def cache_bytes(self) -> int:
        """Bytes that the sequences of all models hold, what they share counted once; 0 where the runtime cannot tell."""

    def session(self, source: Sequence[int] | None = None) -> Session:
        """An empty sequence, which grows as it is fed; of an encoder-decoder, one that answers the `source`."""

    def logits(self, token_ids: Sequence[int], source: Sequence[int] | None = None) -> Floats:
        """Logits (T, V) after each token; of an encoder-decoder, of what answers the `source`."""

    def hidden(self, texts: Sequence[Sequence[int]], source: Sequence[int] | None = None) -> list[Floats]:
        """Hidden states (T, D) of each token of each text, after the last norm; texts may differ in length.

        Of an encoder-decoder they are the encoder's, or, with a `source`, those of a decoder that answers it.
        """

    def transform(self, vectors_ND: Floats) -> Floats:
        """Vectors (N, D) through the dense maps of the model's pooling, (N, D')."""

    def weights(self) -> dict[str, Floats]:
        """Every tensor of the model under its canonical name, in fp32."""
