"""An adapter's changes keyed by our modules, to be applied beside the base's weights without merging, or by transformers'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from ordito import families
from ordito.checkpoint.adapter import Adapter, Array, LowRank
from ordito.checkpoint.assemble import ours_from, theirs_from
from ordito.checkpoint.stored import shown
from ordito.errors import CheckpointError, did_you_mean
from ordito.families.naming import Binding, Composed, Interleaved, Names, Permuted, Transform, Transposed
from ordito.spec import Spec

T = TypeVar("T")


def changes_by_ours(adapter: Adapter, spec: Spec) -> tuple[dict[str, LowRank], dict[str, Array]]:
    """An adapter's changes keyed by our modules, and its saved tensors by our names.

    A fused map on the hub has one A and one B; each of our maps gets the same A and its own rows of B. Changes of separate
    experts are stacked. Raises `CheckpointError` if our tensors are not made of whole rows of theirs: such an adapter can only
    be merged.
    """
    names = families.names_of(spec)[0]
    # Adapters from before transformers 5 have separate experts, newer ones stacked.
    tables = (names, in_memory(spec))
    bindings = {theirs: binding for table in tables for binding in _bindings(spec, table) for theirs in binding.theirs}
    changes: dict[str, LowRank] = {}
    saved: dict[str, Array] = {}
    single: dict[str, LowRank] = {}
    for name, tensor in adapter.saved.items():
        binding = of_base(bindings, names.usual(name), adapter)
        check_shape(adapter, name, tensor.shape, binding.their_shape)
        if binding.stacked:
            raise _must_be_merged(name, adapter.path)
        saved |= ours_from(binding, [tensor.to_float32()])
    for module, change in adapter.changes.items():
        name = names.usual(tensor_name(module, change))
        binding = of_base(bindings, name, adapter)
        turned = change.embedding or is_transposed(binding)
        check_shape(adapter, module, change.shape, swapped(binding.their_shape) if turned else binding.their_shape)
        if binding.stacked:
            single[name] = change
            continue
        rows = _row_binding(binding, adapter.path)
        parts = ours_from(rows, [change.b])
        magnitudes = {} if change.magnitude is None else ours_from(rows, [change.magnitude])
        for ours, b in parts.items():
            changes[ours.removesuffix(".weight")] = replace(change, b=b, magnitude=magnitudes.get(ours))
    for binding in {bindings[name].ours: bindings[name] for name in single}.values():
        experts = [single.get(name) for name in binding.theirs]
        changes[binding.ours[0].removesuffix(".weight")] = _stacked(experts, binding, adapter)
    return changes, saved


def _stacked(experts: Sequence[LowRank | None], binding: Binding, adapter: Adapter) -> LowRank:
    """The changes of separate experts stacked to one; for experts without a change it is zero."""
    first = next(change for change in experts if change is not None)
    alike = all(c is None or (c.rank, c.scaling) == (first.rank, first.scaling) for c in experts)
    if not alike or first.magnitude is not None or binding.whole is not None or binding.each != (None,):
        raise _must_be_merged(binding.theirs[0], adapter.path)
    a, b = np.zeros_like(first.a), np.zeros_like(first.b)
    return LowRank(
        np.stack([a if change is None else change.a for change in experts]),
        np.stack([b if change is None else change.b for change in experts]),
        first.scaling,
    )


def changes_by_theirs(changes: Mapping[str, LowRank], spec: Spec) -> dict[str, LowRank]:
    """Changes keyed by our modules as those of the modules in transformers: the inverse of `changes_by_ours`.

    The changes of maps that are fused there become one: if they do not share an A, theirs are concatenated and the B is
    block-diagonal, so that the rank is the sum. Experts are stacked or separate, as in transformers. Raises `CheckpointError`
    for a change that has no such form.
    """
    names = in_memory(spec)
    theirs: dict[str, LowRank] = {}
    done: set[str] = set()
    prefix = _model_prefix(spec, names)
    for binding in _bindings(spec, names):
        modules = [ours.removesuffix(".weight") for ours in binding.ours]
        if not (present := [module for module in modules if module in changes]):
            continue
        done.update(present)
        parts = [changes.get(module) for module in modules]
        if binding.stacked:
            experts = _per_expert(present[0], changes[present[0]], binding)
            theirs |= {name.removesuffix(".weight"): expert for name, expert in zip(binding.theirs, experts, strict=True)}
            continue
        rows = _row_binding(binding, modules[0])
        a, blocks, scaling = _fused(parts, binding)
        [(name, b)] = theirs_from(rows, dict(zip(binding.ours, blocks, strict=True)))
        magnitudes = [part.magnitude for part in parts if part is not None and part.magnitude is not None]
        if magnitudes and len(magnitudes) < len(parts):
            raise CheckpointError(f"{name!r} is fused on the hub, so all of {', '.join(modules)} need magnitudes, or none")
        m = next(theirs_from(rows, dict(zip(binding.ours, magnitudes, strict=True))))[1] if magnitudes else None
        theirs[name.removesuffix(".weight").removeprefix(prefix)] = LowRank(a, b, scaling, m, changes[present[0]].embedding)
    if lost := changes.keys() - done:
        raise CheckpointError(f"the names on the hub have no map for the change of {min(lost)!r}")
    return theirs


def _per_expert(module: str, change: LowRank, binding: Binding) -> list[LowRank]:
    """The stacked change of one binding's experts as a list of separate ones."""
    if binding.whole is not None or binding.each != (None,):
        raise _must_be_merged(binding.theirs[0], module)
    magnitudes: Sequence[Array | None] = [None] * len(change.a) if change.magnitude is None else list(change.magnitude)
    return [replace(change, a=a, b=b, magnitude=m) for a, b, m in zip(change.a, change.b, magnitudes, strict=True)]


def saved_by_theirs(saved: Mapping[str, Array], spec: Spec) -> dict[str, Array]:
    """Our tensors as those in transformers. Raises `CheckpointError` for one that is fused there with others not given."""
    names = in_memory(spec)
    theirs: dict[str, Array] = {}
    done: set[str] = set()
    prefix = _model_prefix(spec, names)
    for binding in _bindings(spec, names):
        if saved.keys() >= set(binding.ours):
            theirs |= {name.removeprefix(prefix): array for name, array in theirs_from(binding, saved)}
            done.update(binding.ours)
    if lost := saved.keys() - done:
        raise CheckpointError(f"the names on the hub have no tensor for {min(lost)!r} alone")
    return theirs


def _model_prefix(spec: Spec, names: Names) -> str:
    """The prefix of tensors' names (`model.`) that transformers' class of a model without a head does not have."""
    first = {name.partition(".")[0] for binding in names.bindings(spec) for name in binding.theirs}
    return f"{first.pop()}." if spec.head is None and len(first) == 1 else ""


def _fused(parts: Sequence[LowRank | None], binding: Binding) -> tuple[Array, list[Array], float]:
    """The changes of fused maps (None: unchanged) as one A, a B for each map, and one scaling."""
    present = [part for part in parts if part is not None]
    first = present[0]
    if all(part is not None and part.scaling == first.scaling and np.array_equal(part.a, first.a) for part in parts):
        return first.a, [part.b for part in present], first.scaling
    a, blocks, start = np.concatenate([part.a for part in present], axis=-2), list[Array](), 0
    scaling = first.scaling if all(part.scaling == first.scaling for part in present) else 1.0
    for part, shape in zip(parts, binding.shapes, strict=True):
        blocks.append(np.zeros((*shape[:-1], a.shape[-2]), np.float32))
        if part is not None:
            blocks[-1][..., start : start + part.rank] = part.b if part.scaling == scaling else part.scaling * part.b
            start += part.rank
    return a, blocks, scaling


def _bindings(spec: Spec, names: Names) -> list[Binding]:
    """The bindings of all tensors, and of a tied head, which an adapter may change apart from the embedding."""
    bindings = names.bindings(spec)
    head, embedding = theirs_of(names, "head.weight"), "embedding.tokens.weight"
    if spec.tied and head is not None:
        bindings.append(Binding(ours=("head.weight",), theirs=(head,), shapes=(spec.tensors()[embedding],)))
    return bindings


def in_memory(spec: Spec) -> Names:
    """The names of transformers 5's modules, which are those that PEFT sees: with stacked experts."""
    tables = families.names_of(spec)
    return next((names for names in tables if not any(b.stacked for b in names.bindings(spec))), tables[0])


def theirs_of(names: Names, ours: str) -> str | None:
    """The published name of a tensor of ours, or None if the table has none."""
    return names.theirs(ours) if ours.rpartition(".")[0] in names.table else None


def tensor_name(module: str, change: LowRank) -> str:
    """The published name of the tensor that a change of a module changes."""
    return module if change.stacked else f"{module}.weight"


def of_base(things: Mapping[str, T], name: str, adapter: Adapter) -> T:
    """The entry of `things`, of the base model, under a published name. Raises `CheckpointError` if there is none."""
    if name not in things:
        trained = f" ({shown(adapter.base)})" if adapter.base else ""
        raise CheckpointError(
            f"{adapter.path}: changes {shown(name)}, which the base model does not have{did_you_mean(name, things)}; give the "
            f"base that the adapter was trained on{trained}"
        )
    return things[name]


def check_shape(adapter: Adapter, name: str, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Raise `CheckpointError` if the shape of a change is not that of the base's tensor."""
    if got != expected:
        raise CheckpointError(
            f"{adapter.path}: changes {shown(name)} as a tensor of shape {got}, expected the base's {expected}; give the base "
            "that the adapter was trained on"
        )


def swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(..., in, out) of (..., out, in), or the other way round."""
    return (*shape[:-2], shape[-1], shape[-2])


def _parts(transform: Transform | None) -> tuple[Transform, ...]:
    if isinstance(transform, Composed):
        return transform.parts
    return () if transform is None else (transform,)


def is_transposed(binding: Binding) -> bool:
    """Whether theirs is stored (in, out)."""
    return _parts(binding.whole)[:1] == (Transposed(),)


def _row_binding(binding: Binding, where: Path | str) -> Binding:
    """The binding restricted to its effect on rows, for any matrix (out, ...) or vector (out,) with these rows.

    For stacked experts, (E, out, ...), rows are the second axis. Raises `CheckpointError` if it does more than permute rows.
    """
    whole = _parts(binding.whole)[is_transposed(binding) :]
    changes = [*whole, *(change for change in binding.each if change is not None)]
    if binding.stacked or any(not _permutes_rows(change, binding.axis) for change in changes):
        raise _must_be_merged(binding.theirs[0], where)
    return replace(binding, whole=Composed(*whole) if whole else None)


def _permutes_rows(change: Transform, axis: int) -> bool:
    return (isinstance(change, Permuted) and axis == 0) or (isinstance(change, Interleaved) and change.axis == axis)


def _must_be_merged(name: str, where: Path | str) -> CheckpointError:
    return CheckpointError(f"{where}: the change of {shown(name)} cannot be applied unmerged; merge it (merge=True)")
