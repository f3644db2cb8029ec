"""Lowers a spec to a flat plan of operations for the C++ runtime.

The lowering walks the tree once. Every leaf becomes a few operations over numbered buffers, which have a row for each token; a
residual is added by the last operation inside of it. The C++ side knows operations, never architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ordito import _core
from ordito.native.attention import attention, latent_attention, store_source
from ordito.native.feedforward import feed_forward, mixture
from ordito.native.lowering import Lowering, NotLoweredError, Place, Shared, Slot
from ordito.native.screening import matrix_of, screened
from ordito.native.weights import Weights
from ordito.spec import (
    GELU_SIGMOID_SLOPE,
    Attention,
    Block,
    Chain,
    Dense,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    MixtureOfExperts,
    Norm,
    Residual,
    Rope,
    Spec,
    Stack,
    Sum,
    Temperature,
    stacks_of,
)


@dataclass(frozen=True)
class Plan:
    """A program, the buffer of its `result`, and what every batch provides: angles of `ropes`, factors of `temperatures`."""

    program: _core.Program
    result: int
    ropes: tuple[Rope, ...]
    temperatures: tuple[Temperature, ...]


@dataclass(frozen=True)
class Plans:
    """The programs of a model. `slots` are the cache slots of all attentions; `encoder_slots` are used while a source is read.

    `matrices`: the packed weights of each linear map by canonical name, one matrix, or one for each expert.
    """

    slots: tuple[Slot, ...]
    encoder_slots: tuple[int, ...]
    hidden: Plan
    logits: Plan | None
    encode: Plan | None
    matrices: Mapping[str, Sequence[_core.Packed]]


def lower(spec: Spec, weights: Weights) -> Plans:
    """The plans of a model. Raises `NotLoweredError` for a block that the native runtime cannot compute."""
    model = Shared(spec, weights)
    hidden = Lowering(model)
    states = _block(hidden, spec.body, "", None)
    encode: Plan | None = None
    encoder_slots: tuple[int, ...] = ()
    if spec.encoder is not None:
        encoder = Lowering(model)
        before = len(model.slots)
        source = _block(encoder, spec.encoder, "", _block(encoder, spec.embedding, "", None))
        encoder_slots = tuple(range(before, len(model.slots)))
        for path, leaf in spec.attentions:
            if isinstance(leaf, Attention) and leaf.cross:
                store_source(encoder, path, leaf, source)
        encode = _plan(encoder, source)
    logits = None
    if spec.head is not None:
        decoder = Lowering(model)
        logits = _plan(decoder, _block(decoder, spec.head, "", _wanted_states(decoder, spec.body)))
    matrices = {name: [one] for name, one in model.packed.items()} | model.experts
    return Plans(tuple(model.slots.values()), encoder_slots, _plan(hidden, states), logits, encode, matrices)


def _plan(lowering: Lowering, result: Place) -> Plan:
    return Plan(lowering.builder.build(), result[0], tuple(lowering.ropes), tuple(lowering.temperatures))


def _wanted_states(lowering: Lowering, body: Block) -> Place:
    """The body's hidden states of the wanted tokens: blocks after the last stack are computed for these alone."""
    parts = body.parts if isinstance(body, Chain) else (body,)
    end = max((number for number, part in enumerate(parts) if any(stacks_of(part))), default=len(parts) - 1) + 1
    x = _chain(lowering, parts[:end], "", None)
    width = lowering.model.spec.d_model
    kept = lowering.allocate(width)
    lowering.builder.select(x, kept, width)
    lowering.release(x)
    return _chain(lowering, parts[end:], "", kept)


def _chain(lowering: Lowering, parts: Sequence[Block], prefix: str, x: Place | None, add: Place | None = None) -> Place:
    first = x
    for number, part in enumerate(parts):
        y = _block(lowering, part, prefix, x, add if number == len(parts) - 1 else None)
        if x is not None and x != first:
            lowering.release(x)
        x = y
    assert x is not None, "a chain has parts"
    return x


def _block(lowering: Lowering, block: Block, prefix: str, x: Place | None, add: Place | None = None) -> Place:
    """block(x) + add, in a buffer of its own; x is None if the block reads token ids."""
    match block:
        case Chain():
            return _chain(lowering, block.parts, prefix, x, add)
        case Residual():
            assert x is not None, "a residual has an input"
            y = _block(lowering, block.inner, prefix, x, x)
            return y if add is None else lowering.add_to(y, add)
        case Sum():
            total = _block(lowering, block.parts[0], prefix, x, add)
            for part in block.parts[1:]:
                more = _block(lowering, part, prefix, x, total)
                lowering.release(total)
                total = more
            return total
        case Stack():
            stream = x
            for number, layer in enumerate(block.layers):
                after = _block(lowering, layer, f"{prefix}{block.name}.{number}.", stream)
                if stream is not None and stream != x:
                    lowering.release(stream)
                stream = after
            assert stream is not None, "a stack has layers"
            return stream if add is None else lowering.add_to(stream, add)
        case Embedding():
            return _embedding(lowering, block, prefix + block.name)
    assert x is not None, "only an embedding reads token ids"
    match block:
        case Norm():
            y = lowering.allocate(block.d_model)
            lowering.norm(block, prefix + block.name, x, y, 1)
            return y if add is None else lowering.add_to(y, add)
        case Attention():
            return attention(lowering, block, prefix + block.name, x, add)
        case LatentAttention():
            return latent_attention(lowering, block, prefix + block.name, x, add)
        case FeedForward():
            return feed_forward(lowering, block, prefix + block.name, x, add)
        case MixtureOfExperts():
            return mixture(lowering, block, prefix + block.name, x, add)
        case Dense():
            y = lowering.linear(x, [(prefix + block.name, block.d_out)])
            if block.activation:
                lowering.builder.activate(None, y, y, block.d_out, block.activation, 0, 0, GELU_SIGMOID_SLOPE)
            return y if add is None else lowering.add_to(y, add)
        case Head():
            return _head(lowering, block, prefix + block.name, x)
    raise NotLoweredError(f"the native runtime has no reading of {type(block).__name__}")


def _embedding(lowering: Lowering, block: Embedding, path: str) -> Place:
    y = lowering.allocate(block.d_model)
    positions = lowering.model.exact_matrix(f"{path}.positions.weight") if block.n_positions else None
    types = lowering.weights.array(f"{path}.types.weight")[0] if block.n_types else None
    table = lowering.model.matrix(f"{path}.tokens.weight")
    lowering.builder.embed(y, table, block.scale, positions, block.first_position, types)
    return y


def _head(lowering: Lowering, b: Head, path: str, x: Place) -> Place:
    scaled = x
    if b.scale != 1.0:
        scaled = lowering.allocate(b.d_model)
        lowering.builder.scale(x, scaled, b.d_model, b.scale, 0)
    table = matrix_of(lowering.model.spec, b)
    y = lowering.allocate(b.vocab_size)
    maps = [(lowering.model.matrix(table), lowering.weights.vector(f"{path}.bias"), 0, 0)]
    lowering.builder.linear(scaled, y, None, maps, screened=table == screened(lowering.model.spec))
    if b.softcap is not None:
        lowering.builder.scale(y, y, b.vocab_size, 1, b.softcap)
    if b.unused:
        lowering.builder.forbid(y, list(b.unused))
    return y
