"""Lowers a spec to a flat plan of operations for the C++ runtime.

The lowering walks the tree once. Every leaf becomes a few operations over numbered buffers, which have a row for each token; a
residual is added by the last operation inside of it. The C++ side knows operations, never architectures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ordito import _core
from ordito.errors import OrditoError
from ordito.native.screening import matrix_of, screened
from ordito.native.weights import Weights
from ordito.runtime import Floats
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

Place = tuple[int, int]
"""A buffer and its first column."""


class NotLoweredError(OrditoError):
    """A block that the native runtime cannot compute."""


@dataclass(frozen=True)
class Plan:
    """A program, the buffer of its `result`, and what every batch provides: angles of `ropes`, factors of `temperatures`."""

    program: _core.Program
    result: int
    ropes: tuple[Rope, ...]
    temperatures: tuple[Temperature, ...]


@dataclass(frozen=True)
class Slot:
    """What one attention caches of a token: key-value heads, widths of a key and a value, and how far it looks back.

    `of_source`: keys and values of the encoder's text, not of the decoder's.
    """

    heads: int
    key_width: int
    value_width: int
    value_in_key: bool = False
    span: int = 0
    of_source: bool = False

    @property
    def fields(self) -> tuple[int, int, int, bool, int, bool]:
        """In the order that the C++ side expects."""
        return self.heads, self.key_width, self.value_width, self.value_in_key, self.span, self.of_source


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
    model = _Model(spec, weights)
    hidden = _Lowering(model)
    states = hidden.block(spec.body, "", None)
    encode: Plan | None = None
    encoder_slots: tuple[int, ...] = ()
    if spec.encoder is not None:
        encoder = _Lowering(model)
        before = len(model.slots)
        source = encoder.block(spec.encoder, "", encoder.block(spec.embedding, "", None))
        encoder_slots = tuple(range(before, len(model.slots)))
        for path, leaf in spec.attentions:
            if isinstance(leaf, Attention) and leaf.cross:
                encoder.store_source(path, leaf, source)
        encode = encoder.plan(source)
    logits = None
    if spec.head is not None:
        decoder = _Lowering(model)
        logits = decoder.plan(decoder.block(spec.head, "", decoder.wanted_states(spec.body)))
    matrices = {name: [one] for name, one in model.packed.items()} | model.experts
    return Plans(tuple(model.slots.values()), encoder_slots, hidden.plan(states), logits, encode, matrices)


@dataclass
class _Model:
    """What the plans of one model share: its weights, each packed once, and the slots of its attentions."""

    spec: Spec
    weights: Weights
    slots: dict[str, Slot] = field(default_factory=dict)
    packed: dict[str, _core.Packed] = field(default_factory=dict)
    experts: dict[str, list[_core.Packed]] = field(default_factory=dict)
    heads: dict[str, tuple[list[_core.Packed], list[_core.Packed]]] = field(default_factory=dict)

    def matrix(self, name: str) -> _core.Packed:
        if name not in self.packed:
            self.packed[name] = self.weights.matrix(name, split=name == screened(self.spec))
        return self.packed[name]

    def exact_matrix(self, name: str) -> _core.Packed:
        """Packed in fp32: rounding a router's weights could change its choices."""
        if name not in self.packed:
            self.packed[name] = self.weights.pack(self.weights.array(name))
        return self.packed[name]

    def expert_matrices(self, name: str) -> list[_core.Packed]:
        if name not in self.experts:
            self.experts[name] = self.weights.matrices(name)
        return self.experts[name]

    def slot(self, path: str, slot: Slot) -> int:
        self.slots.setdefault(path, slot)
        return list(self.slots).index(path)

    def absorbed(self, path: str, block: LatentAttention) -> tuple[list[_core.Packed], list[_core.Packed]]:
        """Multi-head latent attention with absorbed projections (arXiv:2405.04434, section 2.1.2), packed for each head.

        The first matrices map a query to one for [latent ‖ rotary key], the second a latent to a value: since q . (K c) =
        (K^T q) . c, keys are never expanded.
        """
        if path not in self.heads:
            exact = self.weights.is_exact(f"{path}.k_up.weight")
            k_up = self.weights.array(f"{path}.k_up.weight").reshape(block.n_heads, block.nope_dim, block.kv_rank)
            v_up = self.weights.array(f"{path}.v_up.weight").reshape(block.n_heads, block.v_dim, block.kv_rank)
            queries = []
            for head in k_up:
                both = np.zeros((block.kv_rank + block.rope.dim, block.q_dim), np.float32)
                both[: block.kv_rank, : block.nope_dim] = head.T
                both[block.kv_rank :, block.nope_dim :] = np.eye(block.rope.dim, dtype=np.float32)
                queries.append(self.weights.pack(both, exact))
            self.heads[path] = queries, [self.weights.pack(head, exact) for head in v_up]
        return self.heads[path]


class _Lowering:
    """A program under construction. Buffers that are released are reused."""

    def __init__(self, model: _Model) -> None:
        self.model, self.weights = model, model.weights
        self.builder = _core.Builder()
        self.free: dict[int, list[int]] = {}
        self.widths: dict[int, int] = {}
        self.ropes: list[Rope] = []
        self.temperatures: list[Temperature] = []
        self.relative: Floats | None = None  # the bias table of the stack's first layer, which later layers share

    def plan(self, result: Place) -> Plan:
        return Plan(self.builder.build(), result[0], tuple(self.ropes), tuple(self.temperatures))

    def allocate(self, width: int) -> Place:
        free = self.free.get(width)
        if free:
            return free.pop(), 0
        number = self.builder.buffer(width)
        self.widths[number] = width
        return number, 0

    def release(self, place: Place) -> None:
        self.free.setdefault(self.widths[place[0]], []).append(place[0])

    def wanted_states(self, body: Block) -> Place:
        """The body's hidden states of the wanted tokens: blocks after the last stack are computed for these alone."""
        parts = body.parts if isinstance(body, Chain) else (body,)
        end = max((number for number, part in enumerate(parts) if any(stacks_of(part))), default=len(parts) - 1) + 1
        x = self.chain(parts[:end], "", None)
        width = self.model.spec.d_model
        kept = self.allocate(width)
        self.builder.select(x, kept, width)
        self.release(x)
        return self.chain(parts[end:], "", kept)

    def chain(self, parts: Sequence[Block], prefix: str, x: Place | None, add: Place | None = None) -> Place:
        first = x
        for number, part in enumerate(parts):
            y = self.block(part, prefix, x, add if number == len(parts) - 1 else None)
            if x is not None and x != first:
                self.release(x)
            x = y
        assert x is not None, "a chain has parts"
        return x

    def block(self, block: Block, prefix: str, x: Place | None, add: Place | None = None) -> Place:
        """block(x) + add, in a buffer of its own; x is None if the block reads token ids."""
        match block:
            case Chain():
                return self.chain(block.parts, prefix, x, add)
            case Residual():
                assert x is not None, "a residual has an input"
                y = self.block(block.inner, prefix, x, x)
                return y if add is None else self.add_to(y, add)
            case Sum():
                total = self.block(block.parts[0], prefix, x, add)
                for part in block.parts[1:]:
                    more = self.block(part, prefix, x, total)
                    self.release(total)
                    total = more
                return total
            case Stack():
                stream = x
                for number, layer in enumerate(block.layers):
                    after = self.block(layer, f"{prefix}{block.name}.{number}.", stream)
                    if stream is not None and stream != x:
                        self.release(stream)
                    stream = after
                assert stream is not None, "a stack has layers"
                return stream if add is None else self.add_to(stream, add)
            case Embedding():
                return self.embedding(block, prefix + block.name)
        assert x is not None, "only an embedding reads token ids"
        match block:
            case Norm():
                y = self.allocate(block.d_model)
                self.norm(block, prefix + block.name, x, y, 1)
                return y if add is None else self.add_to(y, add)
            case Attention():
                return self.attention(block, prefix + block.name, x, add)
            case LatentAttention():
                return self.latent_attention(block, prefix + block.name, x, add)
            case FeedForward():
                return self.feed_forward(block, prefix + block.name, x, add)
            case MixtureOfExperts():
                return self.mixture(block, prefix + block.name, x, add)
            case Dense():
                y = self.linear(x, [(prefix + block.name, block.d_out)])
                if block.activation:
                    self.builder.activate(None, y, y, block.d_out, block.activation, 0, 0, GELU_SIGMOID_SLOPE)
                return y if add is None else self.add_to(y, add)
            case Head():
                return self.head(block, prefix + block.name, x)
        raise NotLoweredError(f"the native runtime has no reading of {type(block).__name__}")

    def add_to(self, y: Place, add: Place) -> Place:
        self.builder.add(y, add, y, self.widths[y[0]])
        return y

    def linear(self, x: Place, maps: Sequence[tuple[str, int]], add: Place | None = None) -> Place:
        """Several maps of x, concatenated."""
        y = self.allocate(sum(width for _, width in maps))
        starts = [0, *np.cumsum([width for _, width in maps]).tolist()]
        self.builder.linear(
            x,
            y,
            add,
            [
                (self.model.matrix(f"{name}.weight"), self.weights.vector(f"{name}.bias"), 0, start)
                for (name, _), start in zip(maps, starts, strict=False)
            ],
        )
        return y

    def embedding(self, block: Embedding, path: str) -> Place:
        y = self.allocate(block.d_model)
        positions = self.model.exact_matrix(f"{path}.positions.weight") if block.n_positions else None
        types = self.weights.array(f"{path}.types.weight")[0] if block.n_types else None
        table = self.model.matrix(f"{path}.tokens.weight")
        self.builder.embed(y, table, block.scale, positions, block.first_position, types)
        return y

    def norm(self, block: Norm, path: str, x: Place, y: Place, count: int) -> None:
        weight = self.weights.vector(f"{path}.weight")
        if weight is not None and block.weight_offset:
            weight = weight + np.float32(block.weight_offset)
        bias = self.weights.vector(f"{path}.bias")
        self.builder.norm(x, y, block.d_model, count, block.kind == "layer", block.eps, weight, bias)

    def rotate(self, at: Place, rope: Rope, count: int, width: int) -> None:
        if rope not in self.ropes:
            self.ropes.append(rope)
        self.builder.rotate(at, count, width, self.ropes.index(rope), rope.layout == "interleaved")

    def attention(self, b: Attention, path: str, x: Place, add: Place | None) -> Place:
        heads, groups = b.n_heads * b.head_dim, b.n_kv_heads * b.head_dim
        names = [(f"{path}.q", heads)] + ([] if b.cross else [(f"{path}.k", groups), (f"{path}.v", groups)])
        qkv = self.linear(x, names)
        q, k, v = qkv, (qkv[0], heads), (qkv[0], heads + groups)
        if not b.norm_after_rope:
            self.head_norms(b, path, q, k)
        if b.rope is not None:
            self.rotate(q, b.rope, b.n_heads + b.n_kv_heads, b.head_dim)  # keys follow queries in the buffer
        if b.norm_after_rope:
            self.head_norms(b, path, q, k)
        if b.temperature is not None:
            if b.temperature not in self.temperatures:
                self.temperatures.append(b.temperature)
            self.builder.temper(q, heads, self.temperatures.index(b.temperature))
        slot = self.slot_of(b, path)
        if not b.cross:
            self.builder.store(slot, k, v)
        bias, sparse = b.relative_bias, b.block_sparse
        if bias is not None and not bias.shared:
            self.relative = self.weights.array(f"{path}.relative_bias.weight")
        y = self.allocate(heads)
        self.builder.attend(
            slot=slot,
            q=q,
            dst=y,
            n_heads=b.n_heads,
            scale=b.scale,
            causal=b.causal,
            cross=b.cross,
            window=b.window or 0,
            chunk=b.chunk or 0,
            softcap=b.softcap or 0,
            sinks=self.weights.vector(f"{path}.sinks"),
            relative=self.relative if bias else None,
            n_buckets=bias.n_buckets if bias else 0,
            max_distance=bias.max_distance if bias else 0,
            sparse=(sparse.block, sparse.local, sparse.stride) if sparse else (0, 0, 0),
        )
        self.release(qkv)
        out = self.linear(y, [(f"{path}.o", b.d_model)], add)
        self.release(y)
        return out

    def head_norms(self, b: Attention, path: str, q: Place, k: Place) -> None:
        for norm, at, count in ((b.q_norm, q, b.n_heads), (b.k_norm, k, b.n_kv_heads)):
            if norm is not None and not (b.cross and norm is b.k_norm):
                self.norm(norm, f"{path}.{norm.name}", at, at, count)

    def slot_of(self, b: Attention, path: str) -> int:
        return self.model.slot(
            path, Slot(b.n_kv_heads, b.head_dim, b.head_dim, span=(b.span or 0) if b.causal else 0, of_source=b.cross)
        )

    def store_source(self, path: str, b: Attention, source: Place) -> None:
        """Store a cross-attention's keys and values, computed once from the encoder's states."""
        width = b.n_kv_heads * b.head_dim
        kv = self.linear(source, [(f"{path}.k", width), (f"{path}.v", width)])
        if b.k_norm is not None:
            self.norm(b.k_norm, f"{path}.{b.k_norm.name}", kv, kv, b.n_kv_heads)
        self.builder.store(self.slot_of(b, path), kv, (kv[0], width))
        self.release(kv)

    def latent_attention(self, b: LatentAttention, path: str, x: Place, add: Place | None) -> Place:
        rms = Norm(kind="rms", d_model=b.kv_rank, eps=b.norm_eps)
        if b.q_rank is None:
            q = self.linear(x, [(f"{path}.q", b.n_heads * b.q_dim)])
        else:
            low = self.linear(x, [(f"{path}.q_down", b.q_rank)])
            self.norm(Norm(kind="rms", d_model=b.q_rank, eps=b.norm_eps), f"{path}.q_norm", low, low, 1)
            q = self.linear(low, [(f"{path}.q_up", b.n_heads * b.q_dim)])
            self.release(low)
        width = b.kv_rank + b.rope.dim
        key = self.linear(x, [(f"{path}.kv_down", width)])
        self.norm(rms, f"{path}.kv_norm", key, key, 1)
        self.rotate((key[0], b.kv_rank), b.rope, 1, b.rope.dim)
        self.rotate((q[0], b.nope_dim), b.rope, b.n_heads, b.q_dim)
        queries, values = self.model.absorbed(path, b)
        absorbed = self.allocate(b.n_heads * width)
        self.builder.linear(q, absorbed, None, [(w, None, n * b.q_dim, n * width) for n, w in enumerate(queries)])
        self.release(q)
        slot = self.model.slot(path, Slot(1, width, b.kv_rank, value_in_key=True))
        self.builder.store(slot, key, None)
        self.release(key)
        latents = self.allocate(b.n_heads * b.kv_rank)
        self.builder.attend(slot=slot, q=absorbed, dst=latents, n_heads=b.n_heads, scale=b.scale)
        self.release(absorbed)
        y = self.allocate(b.n_heads * b.v_dim)
        self.builder.linear(latents, y, None, [(w, None, n * b.kv_rank, n * b.v_dim) for n, w in enumerate(values)])
        self.release(latents)
        out = self.linear(y, [(f"{path}.o", b.d_model)], add)
        self.release(y)
        return out

    def feed_forward(self, b: FeedForward, path: str, x: Place, add: Place | None) -> Place:
        names = [(f"{path}.{name}", b.d_ff) for name in (("gate", "up") if b.gated else ("up",))]
        both = self.linear(x, names)
        hidden = self.allocate(b.d_ff)
        gate, up = (both, (both[0], b.d_ff)) if b.gated else (None, both)
        self.builder.activate(gate, up, hidden, b.d_ff, b.activation, b.limit or 0, b.up_offset, b.slope)
        self.release(both)
        y = self.linear(hidden, [(f"{path}.down", b.d_model)], add)
        self.release(hidden)
        return y

    def mixture(self, b: MixtureOfExperts, path: str, x: Place, add: Place | None) -> Place:
        expert, router = b.expert, b.router
        if not isinstance(expert, FeedForward):
            raise NotLoweredError("the native runtime has no reading of mixtures within mixtures; load it with backend='torch'")
        logits = self.allocate(router.n_experts)
        maps = [(self.model.exact_matrix(f"{path}.router.weight"), self.weights.vector(f"{path}.router.bias"), 0, 0)]
        self.builder.linear(x, logits, None, maps)
        y = self.allocate(b.d_model)
        names = {name: f"{path}.experts.{name}" for name in ("gate", "up", "down") if expert.gated or name != "gate"}
        weights = {name: self.model.expert_matrices(f"{module}.weight") for name, module in names.items()}
        biases = {name: list(self.weights.array(f"{module}.bias")) if expert.bias else [] for name, module in names.items()}
        self.builder.experts(
            src=x,
            logits=logits,
            dst=y,
            columns=b.d_model,
            hidden=expert.d_ff,
            router={
                "n_experts": router.n_experts,
                "top_k": router.top_k,
                "score": router.score,
                "choose_first": router.choose_first,
                "renormalise": router.renormalise,
                "scale": router.scale,
                "choice_bias": self.weights.vector(f"{path}.router.choice_bias"),
                "n_groups": router.n_groups,
                "top_groups": router.top_groups,
                "group_by_two": router.group_score == "top2",
                "jitter": router.jitter,
                "capacity": router.capacity or 0,
            },
            gate=weights.get("gate", []),
            up=weights["up"],
            down=weights["down"],
            gate_bias=biases.get("gate", []),
            up_bias=biases["up"],
            down_bias=biases["down"],
            weigh_input=b.weigh == "input",
            act=expert.activation,
            limit=expert.limit or 0,
            offset=expert.up_offset,
            slope=expert.slope,
        )
        self.release(logits)
        if b.shared is not None:
            shared = self.feed_forward(b.shared, f"{path}.shared", x, None)
            if b.shared_gate:
                gate = self.linear(x, [(f"{path}.shared_gate", 1)])
                self.builder.gate(shared, gate, shared, b.d_model)
                self.release(gate)
            self.builder.add(y, shared, y, b.d_model)
            self.release(shared)
        return y if add is None else self.add_to(y, add)

    def head(self, b: Head, path: str, x: Place) -> Place:
        scaled = x
        if b.scale != 1.0:
            scaled = self.allocate(b.d_model)
            self.builder.scale(x, scaled, b.d_model, b.scale, 0)
        table = matrix_of(self.model.spec, b)
        y = self.allocate(b.vocab_size)
        maps = [(self.model.matrix(table), self.weights.vector(f"{path}.bias"), 0, 0)]
        self.builder.linear(scaled, y, None, maps, screened=table == screened(self.model.spec))
        if b.softcap is not None:
            self.builder.scale(y, y, b.vocab_size, 1, b.softcap)
        if b.unused:
            self.builder.forbid(y, list(b.unused))
        return y
