"""Two plans -> the marks of their differences: titles and facts of one that the other lacks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ordito.drawing.layer import Describe, role
from ordito.drawing.plan import Plan, Repeat
from ordito.drawing.rows import row_name
from ordito.drawing.wiring import wiring
from ordito.drawing.words import Label, Leaf, label
from ordito.spec import Chain, Residual, Stack, Sum


@dataclass(frozen=True)
class Differences:
    """The differences of a plan from another: functions that give the marked labels of its column and of each kind of layer."""

    column: Describe
    layers: tuple[Describe, ...]
    wirings: tuple[bool, ...]
    rows: frozenset[str]


def none(plan: Plan) -> Differences:
    """No differences, for a plan that is drawn alone."""

    def plain(place: str, block: Leaf) -> Label:
        return label(block)

    return Differences(plain, (plain,) * len(plan.drawn), (False,) * len(plan.drawn), frozenset())


def differences(plan: Plan, other: Plan) -> Differences:
    """The differences of `plan` from `other`. Each kind of layer is compared with the most similar one of `other`."""
    known = [_labels(kind.layer) for kind in other.drawn]
    nearest = [_nearest(_labels(kind.layer), known) for kind in plan.drawn]
    return Differences(
        _marking(_column_labels(other)),
        tuple(_marking(known[i] if i is not None else {}) for i in nearest),
        tuple(
            i is None or wiring(kind.layer) != wiring(other.kinds[i].layer) for kind, i in zip(plan.drawn, nearest, strict=True)
        ),
        frozenset(_rows(plan) - _rows(other)),
    )


def _marking(theirs: dict[str, Label]) -> Describe:
    """A function that gives labels, marking titles and facts that differ from those of the same role in `theirs`."""

    def describe(place: str, block: Leaf) -> Label:
        own, counterpart = label(block), theirs.get(role(place, block))
        if counterpart is None:
            return replace(own, new=True)
        same = {(fact.key, fact.value) for fact in counterpart.facts}
        facts = tuple(replace(fact, new=(fact.key, fact.value) not in same) for fact in own.facts)
        return replace(own, facts=facts, new=own.title != counterpart.title)

    return describe


def _labels(block: Leaf, place: str = "") -> dict[str, Label]:
    """The label of every leaf, by its role."""
    match block:
        case Chain():
            parts, step = block.parts, "chain."
        case Sum():
            parts, step = block.parts, "sum."
        case Residual():
            parts, step = (block.inner,), "residual."
        case Stack():
            parts, step = block.layers, ""
        case _:
            return {role(place, block): label(block)}
    return {name: found for part in parts for name, found in _labels(part, place + step).items()}


def _column_labels(plan: Plan) -> dict[str, Label]:
    leaves: list[Leaf] = [stage for stage in (*plan.body, *plan.encoder) if not isinstance(stage, Repeat)]
    leaves += [block for outlet in plan.outlets for block in outlet]
    labels = {name: found for leaf in leaves for name, found in _labels(leaf).items()}
    for _, module, _ in plan.ahead:
        labels |= _labels(module.hidden_norm, "hidden.") | _labels(module.embedding_norm, "next.")
        labels |= _labels(module.join) | _labels(module.norm, "ahead.")
    return labels


def _nearest(own: dict[str, Label], known: list[dict[str, Label]]) -> int | None:
    """The index of the first layer that agrees most with `own`; None if there are none."""
    agreements = [_agreement(own, theirs) for theirs in known]
    return agreements.index(max(agreements)) if agreements else None


def _agreement(own: dict[str, Label], theirs: dict[str, Label]) -> int:
    """The number of titles and facts that two layers have in common."""
    shared = own.keys() & theirs.keys()
    return sum((own[name].title == theirs[name].title) + len(set(own[name].facts) & set(theirs[name].facts)) for name in shared)


def _rows(plan: Plan) -> set[str]:
    return {
        f"{times} {row_name(n, plan.kinds[kind])}"
        for stage in (*plan.encoder, *plan.body)
        if isinstance(stage, Repeat)
        for times, runs in stage.groups
        for n, kind in runs
    }
