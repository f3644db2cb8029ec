"""A trace without weights names every setting; with weights it is one token's way through the run."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import ordito
from ordito import catalogue, spec
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.lens import lines, trace_spec
from ordito.lens.steps import formulas
from ordito.spec.blocks import Block

SHAPES = {entry.config["model_type"]: entry for entry in catalogue.models() if entry.config}


def published(name):
    return spec_from_config(catalogue.find(name).config)


@pytest.mark.parametrize("entry", SHAPES.values(), ids=lambda entry: entry.name)
def test_every_family_has_its_formulas(entry):
    found = trace_spec(spec_from_config(entry.config))
    text = "\n".join(lines(found))
    assert len(found.rows) > 10
    assert "Formula(" not in text
    assert all(len(line) <= 130 for line in text.splitlines())


def leaf_kinds():
    queue, found = [Block], []
    while queue:
        for kind in queue.pop().__subclasses__():
            queue.append(kind)
            if not kind.__subclasses__() and kind not in (spec.Chain, spec.Sum, spec.Residual, spec.Stack, spec.NextToken):
                found.append(kind)
    return found


ATTENTION = spec.Attention(d_model=24, n_heads=4, n_kv_heads=2, head_dim=6, scale=0.4, rope=spec.Rope(dim=6, theta=1e4))
NORM = spec.Norm(kind="rms", d_model=24, eps=1e-6)
MLP = spec.FeedForward(d_model=24, d_ff=48, activation="silu", gated=True)
ROUTER = spec.Router(n_experts=8, top_k=2)
LATENT = spec.LatentAttention(
    d_model=24, n_heads=4, kv_rank=8, nope_dim=6, v_dim=6, rope=spec.Rope(dim=4, theta=1e4), scale=0.3
)
LEAVES = {
    spec.Attention: ATTENTION,
    spec.Norm: NORM,
    spec.FeedForward: MLP,
    spec.MixtureOfExperts: spec.MixtureOfExperts(d_model=24, router=ROUTER, expert=MLP),
    spec.LatentAttention: LATENT,
    spec.Embedding: spec.Embedding(vocab_size=96, d_model=24),
    spec.Head: spec.Head(d_model=24, vocab_size=96, tied=False),
    spec.Dense: spec.Dense(name="pooler", d_in=24, d_out=24),
}


def test_no_kind_of_block_is_forgotten():
    assert set(leaf_kinds()) == set(LEAVES)


def said(leaf):
    return [(f.what, f.formula, f.shape) for f in formulas(leaf)]


HEAD_NORM = dataclasses.replace(NORM, d_model=6, name="q_norm")
CHANGES = [
    (spec.Attention, change)
    for change in (
        {"n_heads": 2},
        {"n_kv_heads": 1},
        {"head_dim": 8, "rope": None},
        {"scale": 0.5},
        {"bias": ("q",)},
        {"bias": ("o",)},
        {"causal": False},
        {"window": 5},
        {"chunk": 5},
        {"softcap": 9.0},
        {"sinks": True},
        {"rope": None},
        {"rope": spec.Rope(dim=4, theta=1e4)},
        {"rope": spec.Rope(dim=6, theta=2e4)},
        {"rope": spec.Rope(dim=6, theta=1e4, layout="interleaved")},
        {"rope": spec.Rope(dim=6, theta=1e4, scaling=spec.LinearScaling(factor=2.0))},
        {"q_norm": HEAD_NORM},
        {"k_norm": HEAD_NORM},
        {"temperature": spec.LogTemperature(length=8)},
        {"temperature": spec.SteppedTemperature(strength=0.1, period=8)},
        {"relative_bias": spec.RelativeBias(n_buckets=8, max_distance=20)},
        {"block_sparse": spec.BlockSparse(block=2, local=2, stride=3)},
        {"cross": True, "causal": False, "rope": None},
    )
]
CHANGES += [
    (spec.Norm, c)
    for c in (
        {"kind": "layer"},
        {"eps": 1e-5},
        {"weight": False},
        {"weight_offset": 1.0},
        {"bias": True},
        {"scale_in_fp32": True},
    )
]
CHANGES += [
    (spec.FeedForward, c)
    for c in ({"d_ff": 40}, {"activation": "gelu"}, {"gated": False}, {"bias": True}, {"limit": 7.0}, {"up_offset": 1.0})
]
CHANGES += [
    (spec.Embedding, c) for c in ({"scale": 3.0}, {"n_positions": 9}, {"n_types": 2}, {"n_positions": 9, "first_position": 2})
]
CHANGES += [(spec.Head, c) for c in ({"tied": True}, {"bias": True}, {"scale": 2.0}, {"softcap": 30.0}, {"unused": (3,)})]
CHANGES += [(spec.Dense, c) for c in ({"bias": True}, {"activation": "tanh"}, {"d_out": 20})]
CHANGES += [
    (spec.LatentAttention, c)
    for c in ({"q_rank": 6}, {"kv_rank": 6}, {"nope_dim": 4}, {"v_dim": 4}, {"scale": 0.2}, {"norm_eps": 1e-5}, {"bias": True})
]
CHANGES += [
    (spec.MixtureOfExperts, {"router": dataclasses.replace(ROUTER, **c)})
    for c in (
        {"n_experts": 16},
        {"top_k": 3},
        {"score": "sigmoid"},
        {"score": "sparsemixer"},
        {"choose_first": True},
        {"renormalise": True},
        {"scale": 2.5},
        {"bias": True},
        {"choice_bias": True},
        {"n_groups": 4, "top_groups": 2},
        {"n_groups": 4, "top_groups": 2, "group_score": "top2"},
        {"capacity": 9},
    )
]
CHANGES += [
    (spec.MixtureOfExperts, c)
    for c in (
        {"shared": MLP},
        {"shared": MLP, "shared_gate": True},
        {"weigh": "input"},
        {"expert": dataclasses.replace(MLP, d_ff=40)},
    )
]


@pytest.mark.parametrize(("kind", "change"), CHANGES, ids=str)
def test_every_setting_shows(kind, change):
    assert said(LEAVES[kind]) != said(dataclasses.replace(LEAVES[kind], **change))


def test_the_groups_score_shows():
    groups = dataclasses.replace(ROUTER, n_groups=4, top_groups=2)
    one, two = (
        dataclasses.replace(LEAVES[spec.MixtureOfExperts], router=dataclasses.replace(groups, group_score=score))
        for score in ("max", "top2")
    )
    assert said(one) != said(two)


def test_a_run(folder):
    model = ordito.load(folder)
    found = model.trace("the warp and the weft")
    assert found.position == len(found.tokens) - 1
    assert "".join(found.tokens) == "the warp and the weft"
    logits = model.logits(model.tokenizer.encode("the warp and the weft"))[-1]
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [p for _, p in found.next_tokens] == pytest.approx(sorted(probabilities, reverse=True)[:5], rel=1e-4)
    assert len(found.layers) == model.spec.n_layers
    last = [row for row in found.rows if row.path == "norm"][-1]
    assert last.value == pytest.approx(model.hidden(model.tokenizer.encode("the warp and the weft"))[-1], abs=1e-4)
    assert found.layers[-1].guess == found.next_tokens[0]
    # What the blocks added and the embedding are the stream at the end.
    streams = [row.value for row in found.rows if row.what == "add"]
    first = next(row.value for row in found.rows if row.path == "embedding")
    outs = [row.value for row in found.rows if row.what in ("join", "narrow")]
    assert first + sum(outs) == pytest.approx(streams[-1], abs=1e-4)
    weights = sum(weight for _, weight in found.layers[0].looks_at)
    assert 0 < weights <= 1 + 1e-6
    assert all(line.isprintable() for line in lines(found))


def test_hooks_are_taken_off(folder):
    model = ordito.load(folder)
    model.trace("the")
    module = model.runtime.module
    assert module.tap is None
    assert not any(child._forward_hooks for child in module.modules())


def test_wrong_texts(folder):
    with pytest.raises(OrditoError, match="a text of 0 tokens"):
        ordito.load(folder).trace("")
    with pytest.raises(OrditoError, match="expected 1 to 64"):
        ordito.load(folder).trace("the " * 200)
