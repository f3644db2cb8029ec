"""All facts of a spec by name, so that specs can be compared side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from ordito.accounting import account
from ordito.spec import (
    Attention,
    Block,
    FeedForward,
    LatentAttention,
    MixtureOfExperts,
    Node,
    Norm,
    Scaling,
    Spec,
    Stack,
    Temperature,
)
from ordito.spec.formulas import formulas
from ordito.units import plural, short, size

NONE = "-"
"""The value of a fact that a model does not have."""
CONTEXT = 32768
"""The context at which costs are compared."""


class Fact(NamedTuple):
    """A value, and whether it is the default: facts that all models have at their default are not shown."""

    value: str
    default: bool = False


class Place(NamedTuple):
    """What a fact is about: a section (a block, or the whole model) and a label in it."""

    section: str
    label: str


def facts(spec: Spec) -> dict[Place, Fact]:
    """Every fact of `spec`, in order: sizes, costs, how layers are put together, each block.

    A fact that differs between layers lists its values, each with the number of layers.
    """
    found = {Place("model", label): Fact(value) for label, value in _whole(spec)}
    for stack, block in _stacks(spec):
        section = "layer" if stack.name == "layers" else f"{stack.name} layer"
        steps = [formulas(layer) for layer in block]
        for number in range(max(map(len, steps))):
            found[Place(section, f"step {number + 1}")] = _shared([Fact(s[number] if number < len(s) else NONE) for s in steps])
    for section, blocks in _roles(spec).items():
        found |= {Place(section, label): value for label, value in _nodes(blocks)}
    if spec.pooling is not None:
        found |= {Place("pooling", label): value for label, value in _nodes([spec.pooling])}
    return found


def _whole(spec: Spec) -> Iterator[tuple[str, str]]:
    counted = account(spec)
    yield "parameters", f"{short(counted.parameters.total)} ({counted.parameters.total:,})"
    if counted.parameters.active != counted.parameters.total:
        yield "active parameters", f"{short(counted.parameters.active)} ({counted.parameters.active:,})"
    yield "layers", f"{spec.n_layers}"
    yield "d_model", f"{spec.d_model:,}"
    yield "vocab_size", f"{spec.vocab_size:,}"
    yield "context", f"{spec.context:,}"
    yield "weights at 16 bits", size(counted.nbytes)
    if spec.generates:
        yield "KV cache per token", f"{counted.kv_cache.bytes_per_token:,} bytes"
        yield f"KV cache at {CONTEXT:,}", size(counted.kv_cache.at(CONTEXT))
        yield "FLOPs per token", short(counted.flops.decode().total)
        yield f"FLOPs per token at {CONTEXT:,}", short(counted.flops.decode(CONTEXT).total)
    if spec.ahead:
        yield "multi-token prediction", f"{plural(len(spec.ahead), 'module')} ({short(counted.parameters.ahead)} parameters)"


def _stacks(spec: Spec) -> Iterator[tuple[Stack, Sequence[Block]]]:
    for part in (spec.body, spec.encoder):
        for block in getattr(part, "parts", (part,)):
            if isinstance(block, Stack):
                yield block, block.layers


def _roles(spec: Spec) -> dict[str, list[Block]]:
    """The leaves by role, which is their path without the numbers of layers."""
    found: dict[str, list[Block]] = {}
    for path, leaf in spec.leaves():
        names = [name for name in path.split(".") if not name.isdigit() and name != "layers"]
        if names[0] != "ahead":
            found.setdefault(" ".join(names), []).append(leaf)
    return found


def _nodes(nodes: Sequence[Node]) -> Iterator[tuple[str, Fact]]:
    """The facts of nodes in one role, by label."""
    each = [dict(_facts_of(node)) for node in nodes]
    for label in dict.fromkeys(label for found in each for label in found):
        yield label, _shared([found.get(label, Fact(NONE, True)) for found in each])


def kind(node: Node) -> str:
    """The kind of a node in a word; "" if its role says it.

    >>> kind(Attention(d_model=8, n_heads=4, n_kv_heads=1, head_dim=2, scale=0.5))
    'multi-query'
    """
    match node:
        case Attention(cross=True):
            return "cross-attention"
        case Attention(n_heads=n_heads, n_kv_heads=n_kv_heads):
            return "multi-head" if n_heads == n_kv_heads else "multi-query" if n_kv_heads == 1 else "grouped-query"
        case LatentAttention():
            return "latent"
        case FeedForward(gated=gated):
            return "gated" if gated else "plain"
        case MixtureOfExperts(router=router, shared=shared):
            return f"{router.top_k} of {router.n_experts} experts" + (" + shared" if shared else "")
        case Norm():
            return norm(node)
        case Scaling() | Temperature():
            return type(node).__name__.removesuffix("Scaling").removesuffix("Temperature").lower()
    return ""


def norm(node: Norm) -> str:
    """A norm in one line.

    >>> norm(Norm(kind="rms", d_model=8, eps=1e-6, weight_offset=1.0))
    'rms, eps 1e-06, 1 + weight'
    """
    weight = f"{node.weight_offset:g} + weight" if node.weight_offset else ""
    parts = [node.kind, f"eps {node.eps:g}", weight if node.weight else "no weight", "bias" if node.bias else ""]
    return ", ".join([part for part in parts if part] + (["scaled in fp32"] if node.scale_in_fp32 else []))


UNSAID = {"name", "d_model", "vocab_size", "gated"}
"""Fields that are not facts of their own: the role, the facts of the whole model or `kind` say the same."""


def _facts_of(node: Node, prefix: str = "") -> Iterator[tuple[str, Fact]]:
    if what := kind(node):
        yield prefix.removesuffix(".") or ("kind" if not isinstance(node, Norm) else "norm"), Fact(what)
    if isinstance(node, Norm):
        return
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name in UNSAID:
            continue
        if isinstance(value, Node):
            yield from _facts_of(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, Fact(_value(value), value == field.default)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e12 else f"{value:g}"
        case ():
            return NONE
        case tuple():
            return " ".join(map(_value, value)) if len(value) <= 8 else f"{len(value)} values"
        case None:
            return NONE
    return str(value)


def _shared(facts: Sequence[Fact]) -> Fact:
    """The value that all layers have, or each value with the number of its layers.

    >>> _shared([Fact("512"), Fact("512"), Fact("-", True)]).value
    '2 × 512, 1 × -'
    """
    times = Counter(fact.value for fact in facts)
    if len(times) == 1:
        return facts[0]
    told = ", ".join(f"{n} × {f'[{value}]' if ' ' in value else value}" for value, n in times.items())
    return Fact(told, all(fact.default for fact in facts))
