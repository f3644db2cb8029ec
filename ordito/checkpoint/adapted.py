"""An adapter merged into a base model's tensors.

Merging is done on the published tensors, under their published names, before they are converted to ours: a fused map (Phi-3's
qkv_proj) or a transposed one (GPT-2's c_attn) needs no special treatment then. Tensors of a GGUF file are first converted to
those that the same model has on the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np

from ordito import families
from ordito.checkpoint.adapter import Adapter, Array, LowRank
from ordito.checkpoint.adapter_names import (
    check_shape,
    in_memory,
    is_transposed,
    of_base,
    swapped,
    tensor_name,
    theirs_of,
)
from ordito.checkpoint.assemble import theirs_from
from ordito.checkpoint.checkpoint import Checkpoint, with_own_head
from ordito.checkpoint.stored import Stored
from ordito.errors import CheckpointError
from ordito.families.naming import Binding, Names
from ordito.spec import with_vocabulary


@dataclass(frozen=True, eq=False)
class Computed:
    """A tensor that is computed whenever it is read, in fp32."""

    name: str
    shape: tuple[int, ...]
    compute: Callable[[], Array]

    @property
    def encoding(self) -> str:
        """fp32."""
        return "f32"

    @property
    def nbytes(self) -> int:
        """Bytes of the fp32 values."""
        return 4 * int(np.prod(self.shape))

    def to_float32(self) -> Array:
        """The values, in `shape`."""
        return self.compute()


def merge_adapter(
    tensors: Mapping[str, Stored],
    adapter: Adapter,
    usual: Callable[[str], str],
    transposed: Callable[[str], bool] = lambda name: False,
) -> dict[str, Stored]:
    """A base model's tensors by published name, those that the adapter changes replaced by ones merged on reading.

    `usual` normalises a name to the spelling of `tensors`; `transposed` says whether a tensor is stored (in, out).
    Raises `CheckpointError` for a change that the base has no tensor for, or whose shape differs from the base's.
    """
    merged = dict(tensors)
    for name, tensor in adapter.saved.items():
        check_shape(adapter, name, tensor.shape, of_base(merged, usual(name), adapter).shape)
        merged[usual(name)] = tensor
    for module, change in adapter.changes.items():
        name = usual(tensor_name(module, change))
        base = of_base(merged, name, adapter)
        turned = change.embedding or transposed(name)
        check_shape(adapter, module, change.shape, swapped(base.shape) if turned else base.shape)
        merged[name] = Computed(name, base.shape, _merging(base, change, turned))
    return merged


def _merging(base: Stored, change: LowRank, turned: bool) -> Callable[[], Array]:
    def merged() -> Array:
        weight = base.to_float32()
        return change.merged(weight.swapaxes(-1, -2)).swapaxes(-1, -2) if turned else change.merged(weight)

    return merged


def adapted(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint of the base with the adapter merged into it. Raises as `merge_adapter` does."""
    spec = checkpoint.spec
    stacked = any(change.stacked for change in adapter.changes.values())
    names, tensors = _published(checkpoint, in_memory(spec) if stacked else None)
    head, embedding = (theirs_of(names, name) for name in ("head.weight", "embedding.tokens.weight"))
    touched = {names.usual(name) for name in (*adapter.saved, *(tensor_name(*item) for item in adapter.changes.items()))}
    if spec.tied and head is not None and touched & {head, embedding}:
        # As in PEFT, a change of the head or the embedding does not affect the other.
        spec, tensors[head] = with_own_head(spec), tensors[str(embedding)]
    bindings = names.bindings(spec)
    turned = {name for binding in bindings if is_transposed(binding) for name in binding.theirs}
    merged = merge_adapter(tensors, adapter, names.usual, turned.__contains__)
    return replace(checkpoint, spec=spec, stored=merged, bindings=bindings)


def grown(checkpoint: Checkpoint, adapter: Adapter) -> Checkpoint:
    """The checkpoint of the base with a row of embedding and head for each token of an adapter that was trained with new ones.

    The new rows are zero, which the adapter's own tensors replace. Raises `CheckpointError` if it does not hold all of them.
    """
    spec, names = checkpoint.spec, families.names_of(checkpoint.spec)[0]
    saved = {names.usual(name): tensor.shape for name, tensor in adapter.saved.items()}
    size = max(saved.get(str(theirs_of(names, f"{spec.embedding.name}.tokens.weight")), ())[:1], default=0)
    if size <= spec.vocab_size:
        return checkpoint
    larger, before = with_vocabulary(spec, size, size), spec.tensors()
    shapes = {name: shape for name, shape in larger.tensors().items() if shape != before[name]}
    if lacking := [name for name in shapes if theirs_of(names, name) not in saved]:
        raise CheckpointError(
            f"{adapter.path}: embeds {size} tokens, and its base {spec.vocab_size}, but it holds no rows of {lacking[0]} for "
            "the new ones; train it with lora.saved=embedding,head"
        )
    bindings = [
        replace(b, shapes=tuple(shapes.get(ours, old) for ours, old in zip(b.ours, b.shapes, strict=True)))
        for b in checkpoint.bindings
    ]
    stored = dict(checkpoint.stored)
    for binding in bindings:
        for name in binding.theirs if shapes.keys() & set(binding.ours) else ():
            stored[name] = Computed(name, binding.their_shape, partial(_padded, stored[name], binding.their_shape))
    return replace(checkpoint, spec=larger, stored=stored, bindings=bindings)


def _padded(tensor: Stored, shape: tuple[int, ...]) -> Array:
    return np.pad(tensor.to_float32(), [(0, size - old) for size, old in zip(shape, tensor.shape, strict=True)])


def _published(checkpoint: Checkpoint, wanted: Names | None) -> tuple[Names, dict[str, Stored]]:
    """A table of names and the base's tensors under them: `wanted`, or else the table of the base's own files if they come
    from the hub, or else the preferred one."""
    spec = checkpoint.spec
    for names in families.names_of(spec) if wanted is None else (wanted,):
        if list(names.bindings(spec)) == list(checkpoint.bindings):
            return names, dict(checkpoint.stored)
    names = families.names_of(spec)[0] if wanted is None else wanted
    # The tensors of a binding are read one after the other, so that a cache of one result is enough.
    read = lru_cache(maxsize=1)(
        lambda binding: dict(theirs_from(binding, {name: checkpoint.read(name) for name in binding.ours}))
    )
    return names, {
        name: Computed(name, binding.their_shape, partial(_read_one, read, binding, name))
        for binding in names.bindings(spec)
        for name in binding.theirs
    }


def _read_one(read: Callable[[Binding], Mapping[str, Array]], binding: Binding, name: str) -> Array:
    return read(binding)[name]
