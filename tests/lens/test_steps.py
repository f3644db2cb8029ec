"""The steps of a trace cover every kind of block and every setting that enters a computation."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from ordito import catalogue, spec
from ordito.families import spec_from_config
from ordito.lens.page import lines
from ordito.lens.step import Addition, Where
from ordito.lens.steps import STEPS, sections
from ordito.lens.tracing import trace
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

HERE = Where(position=9, length=12, caches=True)
NORM = Norm(kind="rms", d_model=8, eps=1e-6)
ROPE = Rope(dim=8, theta=1e4)
MLP = FeedForward(d_model=8, d_ff=12, activation="silu", gated=True)
ATTENTION = Attention(d_model=8, n_heads=4, n_kv_heads=2, head_dim=8, scale=0.5)
ROUTER = Router(n_experts=8, top_k=2)
EXPERTS = MixtureOfExperts(d_model=8, router=ROUTER, expert=MLP)
GROUPS = {"n_groups": 4, "top_groups": 2}


def leaf_kinds(kind):
    below = kind.__subclasses__()
    return [kind] if not below else [leaf for sub in below for leaf in leaf_kinds(sub)]


def turned(scaling):
    return replace(ATTENTION, rope=replace(ROPE, scaling=scaling))


def heated(temperature):
    return replace(ATTENTION, temperature=temperature)


def same(block):
    return block


SETTINGS = {
    Attention: (same, ATTENTION, {
        "d_model": 16, "n_heads": 8, "n_kv_heads": 4, "head_dim": 16, "scale": 0.25, "bias": ("q", "o"), "causal": False,
        "window": 5, "chunk": 5, "softcap": 30.0, "sinks": True, "rope": ROPE, "q_norm": NORM, "k_norm": NORM,
        "norm_after_rope": ({"q_norm": NORM, "rope": ROPE}, True), "temperature": LogTemperature(length=5),
        "relative_bias": RelativeBias(n_buckets=8, max_distance=16), "block_sparse": BlockSparse(block=4, local=2, stride=2),
        "cross": ({"causal": False}, True),
    }),
    BlockSparse: (lambda sparse: replace(ATTENTION, block_sparse=sparse), BlockSparse(block=4, local=2, stride=2),
                  {"block": 8, "local": 3, "stride": 3}),
    Dense: (same, Dense(name="d", d_in=8, d_out=8), {"d_in": 16, "d_out": 16, "bias": True, "activation": "tanh"}),
    DivisorScaling: (turned, DivisorScaling(divisors=(1.0, 2.0, 3.0, 4.0)), {"divisors": (1.0, 2.0, 3.0, 5.0)}),
    DynamicScaling: (turned, DynamicScaling(factor=2.0, context=8), {"factor": 3.0, "context": 10}),
    Embedding: (same, Embedding(vocab_size=50, d_model=8), {
        "vocab_size": 51, "d_model": 16, "scale": 2.5, "n_positions": 64, "first_position": ({"n_positions": 64}, 2), "n_types": 2,
    }),
    FeedForward: (same, MLP, {
        "d_model": 16, "d_ff": 24, "activation": "gelu", "gated": False, "bias": True, "limit": 7.0, "up_offset": 1.0,
        "slope": ({"activation": "gelu_sigmoid"}, 1.5),
    }),
    Head: (same, Head(d_model=8, vocab_size=50, tied=False), {
        "d_model": 16, "vocab_size": 51, "tied": True, "bias": True, "scale": 0.5, "softcap": 30.0, "unused": (7, 9),
    }),
    LatentAttention: (same, LatentAttention(d_model=8, n_heads=2, kv_rank=6, nope_dim=4, rope=ROPE, v_dim=4, scale=0.5), {
        "d_model": 16, "n_heads": 4, "q_rank": 6, "kv_rank": 8, "nope_dim": 6, "rope": replace(ROPE, theta=1e5), "v_dim": 8,
        "scale": 0.25, "norm_eps": 1e-5, "bias": True,
    }),
    LinearScaling: (turned, LinearScaling(factor=2.0), {"factor": 3.0}),
    Llama3Scaling: (turned, Llama3Scaling(factor=8.0, low_frequency=1.0, high_frequency=4.0, context=64), {
        "factor": 4.0, "low_frequency": 2.0, "high_frequency": 3.0, "context": 32,
    }),
    LogTemperature: (heated, LogTemperature(length=5), {"length": 6}),
    LongRopeScaling: (turned, LongRopeScaling(short=(1.0,) * 4, long=(2.0,) * 4, context=8, attention_factor=1.1), {
        "short": (1.0, 1.0, 1.0, 1.5), "long": (2.0, 2.0, 2.0, 3.0), "context": 16, "attention_factor": 1.2,
        "long_attention_factor": 1.3,
    }),
    MixtureOfExperts: (same, EXPERTS, {
        "d_model": {"d_model": 16, "expert": replace(MLP, d_model=16)}, "router": replace(ROUTER, top_k=3), "expert": replace(MLP, d_ff=16), "shared": MLP,
        "shared_gate": ({"shared": MLP}, True), "weigh": "input",
    }),
    Norm: (same, NORM, {
        "d_model": 16, "kind": "layer", "eps": 1e-5, "weight": False, "weight_offset": 1.0, "bias": True, "scale_in_fp32": True,
    }),
    Pooling: (same, Pooling(kind="mean"), {
        "kind": "cls", "dense": (Dense(name="d", d_in=8, d_out=8),), "normalise": True, "max_tokens": 9,
    }),
    QwenScaling: (turned, QwenScaling(context=8), {"context": 4}),
    RelativeBias: (lambda bias: replace(ATTENTION, relative_bias=bias), RelativeBias(n_buckets=8, max_distance=16),
                   {"n_buckets": 16, "max_distance": 32}),
    Rope: (lambda rope: replace(ATTENTION, rope=rope), ROPE, {
        "dim": 4, "theta": 2e4, "layout": "interleaved", "scaling": LinearScaling(factor=2.0),
    }),
    Router: (lambda router: replace(EXPERTS, router=router), ROUTER, {
        "n_experts": 16, "top_k": 3, "score": "sigmoid", "choose_first": True, "renormalise": True, "scale": 2.5, "bias": True,
        "choice_bias": True, "n_groups": ({"top_groups": 1}, 4), "top_groups": ({"n_groups": 4}, 2),
        "group_score": (GROUPS, "top2"), "jitter": ({"score": "sparsemixer"}, 0.1), "capacity": 5,
    }),
    SteppedTemperature: (heated, SteppedTemperature(strength=0.1, period=4), {"strength": 0.2, "period": 5, "offset": 1}),
    YarnScaling: (turned, YarnScaling(factor=4.0, context=32, attention_factor=1.1), {
        "factor": 8.0, "context": 64, "beta_fast": 16.0, "beta_slow": 2.0, "truncate": False, "attention_factor": 1.2,
    }),
}  # fmt: skip
"""Kind -> (a function that makes a block of it, an instance, other values of every field, with prerequisites if needed)."""
NO_COMPUTATION = {"name": "what a block is called", "shared": "which layer owns a table that all of them read"}


def text(thing, where=HERE):
    """The steps of a block, or of a pooling, as text."""
    if isinstance(thing, Pooling):
        whole = Spec(architecture="none", context=16, body=Embedding(vocab_size=5, d_model=8), pooling=thing)
        steps = [step for section in sections(whole, where) for step in section.steps]
    else:
        steps = STEPS[type(thing)](thing, "block", "x", "y", where)
    return [(step.formula, step.notes, step.shape) for step in steps]


def test_every_kind_of_block_has_steps():
    assert set(STEPS) == set(leaf_kinds(Block)) - {Chain, NextToken, Residual, Stack, Sum}


def test_every_setting_of_every_kind_is_tried():
    kinds = set(leaf_kinds(Node)) - {Chain, NextToken, Residual, Stack, Sum, Spec}
    assert kinds == set(SETTINGS)
    for kind, (_, _, changes) in SETTINGS.items():
        unseen = {"name"} | ({"shared"} if kind is RelativeBias else set())
        assert unseen <= NO_COMPUTATION.keys()
        assert {field.name for field in fields(kind)} - unseen == set(changes), kind


@pytest.mark.parametrize(("kind", "field"), [(kind, field) for kind, (_, _, changes) in SETTINGS.items() for field in changes])
@pytest.mark.parametrize("where", [HERE, Where(caches=True)], ids=["at a position", "anywhere"])
def test_every_setting_changes_the_page(kind, field, where):
    make, node, changes = SETTINGS[kind]
    needed, value = changes[field] if _has_needs(changes[field]) else ({}, changes[field])
    before = replace(node, **needed)
    after = replace(before, **(value if isinstance(value, dict) else {field: value}))
    assert text(make(after), where) != text(make(before), where)


def _has_needs(change):
    return isinstance(change, tuple) and isinstance(change[0], dict)


@pytest.mark.parametrize(
    ("block", "position", "said"),
    [
        (ATTENTION, 9, "here j = 0 to 9"),
        (replace(ATTENTION, window=4), 9, "here j = 6 to 9"),
        (replace(ATTENTION, chunk=4), 9, "here j = 8 to 9"),
        (replace(ATTENTION, chunk=9), 9, "here j = 9"),
        (replace(ATTENTION, causal=False), 9, "here j = 0 to 11"),
        (replace(ATTENTION, causal=False, window=2), 9, "here j = 8 to 10"),
        (replace(ATTENTION, causal=False, chunk=5), 9, "here j = 5 to 9"),
        (replace(ATTENTION, causal=False, window=40, chunk=40), 9, "here j = 0 to 11"),
    ],
)
def test_visible_positions_are_counted(block, position, said):
    notes = [note for _, notes, _ in text(block, replace(HERE, position=position)) for note in notes]
    assert any(note.endswith(said) for note in notes)


def test_angles_are_those_of_the_position():
    notes = [note for _, notes, _ in text(replace(ATTENTION, rope=ROPE)) for note in notes]
    assert f"angles at p = 9: 9 to {9 * 1e4 ** (-6 / 8):.3g} rad" in notes


@pytest.mark.parametrize("name", [entry.name for entry in catalogue.models() if not entry.closed])
def test_every_published_model_has_a_page(name):
    entry = catalogue.find(name)
    model = spec_from_config(entry.config, entry.name)
    found = trace(model)
    leaves = {path for path, _ in model.leaves() if not path.startswith("ahead.")}
    assert leaves <= {step.path for section in found.sections for step in section.steps}
    page = lines(found)
    assert max(map(len, page)) <= 100
    assert "None" not in "\n".join(page)
    layers = [number for section, numbers in found.folded() if not section.encoder for number in numbers]
    assert sorted(layers) == list(range(model.n_layers))


@pytest.mark.parametrize(
    ("layer", "formulas"),
    [
        (Residual(Chain(replace(NORM, name="n"), ATTENTION)), ["x = x + o"]),
        (Residual(Chain(replace(NORM, name="n"), Sum(ATTENTION, MLP))), ["x = x + o + m"]),
        (Residual(Chain(ATTENTION, replace(NORM, name="n"))), ["x = x + h"]),
        (Chain(Residual(ATTENTION), replace(NORM, name="n"), Residual(MLP)), ["x = x + o", "x = x + m"]),
    ],
)
def test_additions_name_the_recorded_stream(layer, formulas):
    body = Chain(Embedding(vocab_size=5, d_model=8), Stack(layers=(layer, layer)))
    found = sections(spec.Spec(architecture="none", context=16, body=body), Where())
    for number in (0, 1):
        (section,) = [section for section in found if section.layer == number]
        additions = [step for step in section.steps if isinstance(step, Addition)]
        assert [step.formula for step in additions] == formulas
        assert additions[-1].recorded == (f"layers.{number}", "output")
        assert additions[0].before == (f"layers.{number}", "input")
