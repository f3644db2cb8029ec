"""Conversion of the arrays of a `Binding`: published tensors to ours, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ordito.families.naming import Binding

Array = NDArray[np.float32]


def ours_from(binding: Binding, theirs: Sequence[Array]) -> dict[str, Array]:
    """Our tensors by canonical name, from `theirs`, the arrays of `binding.theirs` in order."""
    arrays = [binding.whole.ours(array) for array in theirs] if binding.whole else list(theirs)
    fused = np.stack(arrays) if binding.stacked else arrays[0]
    ours, start = {}, 0
    for name, shape, change in zip(binding.ours, binding.shapes, binding.each, strict=True):
        part = fused
        if len(binding.ours) > 1:
            end = start + shape[binding.axis]
            part, start = fused[(slice(None),) * binding.axis + (slice(start, end),)], end
        ours[name] = np.ascontiguousarray(change.ours(part) if change else part)
    return ours


def theirs_from(binding: Binding, ours: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Their tensors as (name, array), from ours by canonical name."""
    changed = [
        change.theirs(ours[name]) if change else ours[name] for name, change in zip(binding.ours, binding.each, strict=True)
    ]
    fused = changed[0] if len(changed) == 1 else np.concatenate(changed, axis=binding.axis)
    for name, array in zip(binding.theirs, fused if binding.stacked else [fused], strict=True):
        yield name, np.ascontiguousarray(binding.whole.theirs(array) if binding.whole else array)
