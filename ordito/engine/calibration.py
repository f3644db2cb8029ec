"""Importance matrices for quantization: mean squares of the inputs of every linear map on real text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ordito import families
from ordito.checkpoint.importance import Importance
from ordito.errors import OrditoError
from ordito.native.runtime import NativeRuntime
from ordito.native.screening import matrix_of
from ordito.runtime import Runtime


def importance(
    runtime: Runtime, token_ids: Sequence[int], *, dataset: str = "", context: int = 512, windows: int | None = None
) -> Importance:
    """Run a text in windows of `context` tokens and collect sums of squares of the inputs of every matrix, per column.

    Tensors have the names of GGUF; the head, or the embedding that is tied to it, is left out, as in llama.cpp: it reads only
    the last token of each window. Raises `ConfigError` for an architecture that GGUF does not know, `OrditoError` for a text
    that does not fill one window.
    """
    if not isinstance(runtime, NativeRuntime):
        raise OrditoError("only the native runtime collects importances: load the model with backend='native'")
    context = min(context, runtime.spec.context)
    number = len(token_ids) // context if windows is None else min(windows, len(token_ids) // context)
    if number < 1:
        raise OrditoError(f"the text has {len(token_ids)} tokens, expected at least the {context} of one window")
    families.header_from_spec(runtime.spec)
    names = families.gguf_of(families.family_of(runtime.spec)).names(runtime.spec)
    runtime.machine.watch()
    for window in range(number):
        ids = list(token_ids[window * context : (window + 1) * context])
        if runtime.spec.head is None:
            runtime.hidden([ids])
        else:
            runtime.session().feed(ids)
    head = matrix_of(runtime.spec, runtime.spec.lm_head) if runtime.spec.lm_head else None
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, np.ndarray] = {}
    for binding in names.bindings(runtime.spec):
        matrices = runtime.plans.matrices.get(binding.ours[0])
        if matrices is None or binding.ours[0] == head:
            continue
        found = [runtime.machine.inputs(one) for one in matrices]
        if not any(tokens for _, tokens in found):
            continue  # an embedding is looked up, not multiplied
        squares, tokens = np.stack([some for some, _ in found]), np.array([count for _, count in found], np.float32)
        for place, theirs in enumerate(binding.theirs):
            part = slice(place, place + 1) if binding.stacked else slice(None)
            sums[theirs], counts[theirs] = squares[part], tokens[part]
    return Importance(sums, counts, (dataset,), number, context)
