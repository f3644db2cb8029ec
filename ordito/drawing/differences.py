"""Two plans -> what is marked in a drawing of both: what one says and the other does not."""

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
    """What differs in one plan from another: the labels of its column and of each of its kinds, with their marks."""

    column: Describe
    layers: tuple[Describe, ...]
    wirings: tuple[bool, ...]
    rows: frozenset[str]


def none(plan: Plan) -> Differences:
    """Nothing marked: the plan alone."""

    def plain(place: str, block: Leaf) -> Label:
        return label(block)

    return Differences(plain, (plain,) * len(plan.drawn), (False,) * len(plan.drawn), frozenset())


def differences(plan: Plan, other: Plan) -> Differences:
    """What differs in `plan` from `other`. Each layer is compared with the one that is most like it over there."""
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
    """Labels in which marked is what their counterparts lack."""

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
    """The number of the layer that shares most with one, the first of such; None where there is none."""
    agreements = [_agreement(own, theirs) for theirs in known]
    return agreements.index(max(agreements)) if agreements else None


def _agreement(own: dict[str, Label], theirs: dict[str, Label]) -> int:
    """How many titles and facts two layers share."""
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
