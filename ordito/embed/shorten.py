"""Shorter vectors, of models that were trained to give them (matryoshka representation learning, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence

from ordito.checkpoint.checkpoint import Checkpoint
from ordito.embed.pool import DEFAULT, normalised
from ordito.errors import OrditoError
from ordito.runtime import Floats


def widths(checkpoint: Checkpoint) -> Sequence[int]:
    """How many numbers a vector of this model may have, in rising order; the last is the whole.

    Fewer than all where config.json says that the model was trained for it, in the keys that vLLM reads:
    `matryoshka_dimensions` lists them, `is_matryoshka` means any.
    """
    spec, config = checkpoint.spec, checkpoint.metadata
    whole = spec.pooling.dense[-1].d_out if spec.pooling and spec.pooling.dense else spec.d_model
    listed = config.get("matryoshka_dimensions")
    if isinstance(listed, list):
        return [*sorted({n for n in listed if isinstance(n, int) and 0 < n < whole}), whole]
    return range(1, whole + 1) if config.get("is_matryoshka") is True else [whole]


def check_width(checkpoint: Checkpoint, dimensions: int) -> None:
    """Raise `OrditoError` for vectors of as many numbers, if the model does not give any."""
    if dimensions not in (known := widths(checkpoint)):
        wanted = f"1 to {known[-1]}" if isinstance(known, range) else " or ".join(map(str, known))
        raise OrditoError(f"dimensions: this model has vectors of {wanted} numbers, got {dimensions}")


def shortened(vectors_ND: Floats, dimensions: int, checkpoint: Checkpoint) -> Floats:
    """The first numbers of each vector, (N, dimensions), scaled to length 1 again where the model's vectors are."""
    short_NK = vectors_ND[:, :dimensions]
    return normalised(short_NK) if (checkpoint.spec.pooling or DEFAULT).normalise else short_NK
