"""Whatever changes what a model computes changes its picture: every field of every node is changed, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, Literal, get_args, get_origin

import pytest

from ordito.drawing import draw, sizes
from ordito.errors import SpecError
from ordito.spec import (
    Attention,
    Block,
    BlockSparse,
    Chain,
    Dense,
    DivisorScaling,
    DynamicScaling,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    LinearScaling,
    Llama3Scaling,
    LogTemperature,
    LongRopeScaling,
    MixtureOfExperts,
    NextToken,
    Node,
    Norm,
    Pooling,
    QwenScaling,
    RelativeBias,
    Residual,
    Rope,
    Router,
    Spec,
    Stack,
    SteppedTemperature,
    Sum,
    YarnScaling,
)
from ordito.spec.node import _hints

D = 24
SILENT = {
    (Spec, "architecture"),  # a label for files, without effect on the computation
    (RelativeBias, "shared"),  # which module owns the table
}
"""Fields without effect on the computation, besides names of blocks."""
SAMPLES: dict[type, Node] = {
    Norm: Norm(name="q_norm", d_model=8, kind="layer", eps=1e-4),
    Rope: Rope(dim=8, theta=5000.0),
    LinearScaling: LinearScaling(factor=2.0),
    SteppedTemperature: SteppedTemperature(strength=0.2, period=64),
    RelativeBias: RelativeBias(n_buckets=16, max_distance=64),
    BlockSparse: BlockSparse(block=8, local=2, stride=4),
    FeedForward: FeedForward(d_model=D, d_ff=40, activation="silu", gated=True),
    Dense: Dense(name="sample", d_in=D, d_out=D),
    Pooling: Pooling(kind="mean"),
}
"""Values for fields that are None."""


def norm(name: str, width: int = D) -> Norm:
    return Norm(name=name, d_model=width, kind="rms", eps=1e-6, weight_offset=1.0)


def attention(**changes: Any) -> Attention:
    settings: dict[str, Any] = {"d_model": D, "n_heads": 6, "n_kv_heads": 3, "head_dim": 8, "scale": 8**-0.5}
    return Attention(**settings | changes)


def mlp(**changes: Any) -> FeedForward:
    settings: dict[str, Any] = {"d_model": D, "d_ff": 56, "activation": "gelu_sigmoid", "gated": True, "limit": 7.0}
    return FeedForward(**settings | changes)


def model(*blocks: Block, **parts: Any) -> Spec:
    layer = Chain(*(Residual(Chain(norm(f"norm_{i}"), block)) for i, block in enumerate(blocks)))
    embedding = Embedding(vocab_size=97, d_model=D, scale=2.0, n_positions=64, first_position=2, n_types=2)
    return Spec(architecture="tiny", context=64, body=Chain(embedding, Stack(layers=(layer,)), norm("norm")), **parts)


SCALINGS = [
    LinearScaling(factor=8.0),
    DynamicScaling(factor=2.0, context=64),
    QwenScaling(context=64),
    Llama3Scaling(factor=8.0, low_frequency=1.0, high_frequency=4.0, context=64),
    YarnScaling(factor=4.0, context=64, attention_factor=1.1),
    LongRopeScaling(short=(1.0, 2.0, 3.0), long=(2.0, 4.0, 6.0), context=64, attention_factor=1.2),
    DivisorScaling(divisors=(1.0, 2.0, 3.0)),
]
ROUTER = Router(n_experts=8, top_k=2, score="sigmoid", n_groups=4, top_groups=2)
MODELS = {
    "head": model(attention(), mlp(), head=Head(d_model=D, vocab_size=97, tied=False, scale=0.5, softcap=30.0, unused=(5, 7))),
    "window": model(attention(window=7, chunk=16, softcap=50.0, sinks=True, bias=("q",), q_norm=norm("q_norm", 8), k_norm=norm("k_norm", 8))),
    "both ways": model(attention(causal=False, window=7, block_sparse=SAMPLES[BlockSparse])),
    "log": model(attention(temperature=LogTemperature(length=64), relative_bias=SAMPLES[RelativeBias])),
    "stepped": model(attention(temperature=SAMPLES[SteppedTemperature])),
    **{type(s).__name__: model(attention(rope=Rope(dim=6, theta=1e4, layout="interleaved", scaling=s))) for s in SCALINGS},
    "latent": model(LatentAttention(d_model=D, n_heads=4, q_rank=12, kv_rank=10, nope_dim=8, rope=Rope(dim=6, theta=1e4), v_dim=8, scale=0.3)),
    "mixture": model(MixtureOfExperts(d_model=D, router=ROUTER, expert=mlp(), shared=mlp(d_ff=16), shared_gate=True)),
    "sparsemixer": model(MixtureOfExperts(d_model=D, router=Router(n_experts=8, top_k=2, score="sparsemixer", jitter=0.01, capacity=9), expert=mlp())),
    "mixtures in a mixture": model(MixtureOfExperts(d_model=D, router=ROUTER, expert=MixtureOfExperts(d_model=D, router=ROUTER, expert=mlp()))),
    "parallel": model(Sum(attention(), mlp(activation="gelu", bias=True))),
    "ungated": model(mlp(gated=False, limit=None, activation="gelu_tanh")),
    "pooler": model(attention(causal=False), pooler=Dense(name="pooler", d_in=D, d_out=D, bias=True, activation="tanh")),
    "pooling": model(attention(), pooling=Pooling(kind="last", dense=(Dense(name="dense", d_in=D, d_out=9),), normalise=True, max_tokens=33)),
    "ahead": model(
        attention(),
        head=Head(d_model=D, vocab_size=97, tied=True),
        ahead=(NextToken(d_model=D, embedding_norm=norm("embedding_norm"), hidden_norm=norm("hidden_norm"), join=Dense(name="join", d_in=2 * D, d_out=D), layer=Residual(attention()), norm=norm("norm")),),
    ),
    "cross": model(attention(), attention(name="cross", causal=False, cross=True, scale=1.0), encoder=Stack(name="encoder", layers=(Residual(attention(causal=False)),))),
}  # fmt: skip
WITHOUT_EFFECT = {
    (Attention, "norm_after_rope"): "window",
    (FeedForward, "up_offset"): "head",
    (FeedForward, "slope"): "head",
    (Router, "group_score"): "mixture",
    (Router, "jitter"): "sparsemixer",
    (Router, "choose_first"): "mixture",
}
"""Fields that have an effect only together with others, and a model in which they have."""


def others(value: Any, hint: Any) -> Iterator[Any]:
    """Other values that a field could have."""
    if value is None:
        yield from (sample for kind, sample in SAMPLES.items() if isinstance(sample, Node) and _accepts(hint, kind))
        yield from (7, 3.5, *(option for part in get_args(hint) for option in _options(part)))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2, value - 1)
    elif isinstance(value, float):
        yield value * 1.5 + 0.25
    elif isinstance(value, str):
        yield from (option for option in _options(hint) if option != value)
    elif isinstance(value, tuple) and all(isinstance(item, (int, float, str)) for item in value):
        yield from (value[1:], (*value, 1), (*value, "v"), (value[0] * 9, *value[1:]) if value else ("q",))


def _options(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(option for part in get_args(hint) for option in _options(part))


def _accepts(hint: Any, kind: type) -> bool:
    return any(isinstance(part, type) and issubclass(kind, part) for part in get_args(hint))


def changed(node: Any) -> Iterator[tuple[type, str, Any]]:
    """Every variant of a node with one field changed, its own or of a node within it: (class, field, variant)."""
    if isinstance(node, tuple):
        for i, item in enumerate(node):
            yield from ((kind, name, (*node[:i], other, *node[i + 1 :])) for kind, name, other in changed(item))
    if not isinstance(node, Node):
        return
    for field in fields(node):
        value = getattr(node, field.name)
        own = (
            [] if field.name == "name" or (type(node), field.name) in SILENT else others(value, _hints(type(node))[field.name])
        )
        found = [*((type(node), field.name, other) for other in own if other != value), *changed(value)]
        yield from ((kind, name, made) for kind, name, other in found for made in _replaced(node, field.name, other))


def _replaced(node: Node, name: str, value: Any) -> Iterator[Any]:
    """The node with another value, if such a node can exist."""
    try:
        yield type(node)(*value) if name == "parts" else replace(node, **{name: value})
    except (SpecError, TypeError):
        return


@pytest.fixture
def uncounted(monkeypatch):
    """Hide parameter counts, in which nearly every change would show."""
    monkeypatch.setattr(sizes, "prod", lambda shape: 0)


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_shows(name, uncounted):
    before = draw(MODELS[name], titles=["x"]).svg()
    silent, tried = set(), set()
    for kind, field, other in changed(MODELS[name]):
        tried.add((kind, field))
        if WITHOUT_EFFECT.get((kind, field), name) == name and draw(other, titles=["x"]).svg() == before:
            silent.add((kind.__name__, field))
    assert not silent
    assert len(tried) > 10


def test_every_field_was_tried():
    tried = {(kind, field) for spec in MODELS.values() for kind, field, _ in changed(spec)}
    nodes = {kind for kind, _ in tried}
    lacking = {
        (kind.__name__, field.name)
        for kind in nodes
        for field in fields(kind)
        if (kind, field.name) not in tried | SILENT
        and field.name not in {"name", "d_model", "d_in", "encoder"}
        and not _holds_nodes(kind, field.name)
    }
    assert not lacking


def _holds_nodes(kind: type, name: str) -> bool:
    """Whether a field holds required nodes, so that only the fields within them are changed."""
    hint = _hints(kind)[name]
    flat = [hint, *get_args(hint)]
    return type(None) not in flat and any(isinstance(part, type) and issubclass(part, Node) for part in flat)
