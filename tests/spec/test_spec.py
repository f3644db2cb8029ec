from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordito import spec
from ordito.errors import SpecError
from ordito.spec import Attention, Chain, Embedding, FeedForward, Head, Norm, Residual, Rope, Spec, Stack, Sum

D = 12


def norm(name="norm", width=D):
    return Norm(name=name, kind="rms", d_model=width, eps=1e-5)


def attention(**changes):
    sizes = {"d_model": D, "n_heads": 4, "n_kv_heads": 2, "head_dim": 6, "scale": 0.4} | changes
    return Attention(**sizes)


def mlp(**changes):
    return FeedForward(**{"d_model": D, "d_ff": 20, "activation": "silu", "gated": True} | changes)


def model(*layers, **changes):
    body = Chain(Embedding(vocab_size=11, d_model=D), Stack(layers=layers), norm())
    return Spec(
        **{"architecture": "toy", "context": 32, "body": body, "head": Head(d_model=D, vocab_size=11, tied=True)} | changes
    )


PRE = Chain(Residual(Chain(norm("attention_norm"), attention())), Residual(Chain(norm("mlp_norm"), mlp())))
POST = Chain(Residual(attention()), norm("attention_norm"), Residual(mlp()), norm("mlp_norm"))
PARALLEL = Residual(Chain(norm("attention_norm"), Sum(attention(), mlp())))


def test_names_follow_the_path_in_the_tree():
    names = model(PRE, PARALLEL).tensors()
    assert names["embedding.tokens.weight"] == (11, D)
    assert names["layers.0.attention.q.weight"] == (24, D)
    assert names["layers.1.attention.k.weight"] == (12, D)
    assert names["layers.1.mlp.down.weight"] == (D, 20)
    assert names["norm.weight"] == (D,)
    assert "head.weight" not in names


def test_an_untied_head_and_biases_have_tensors():
    names = model(
        Chain(Residual(attention(bias=("q", "o"))), Residual(mlp(bias=True))),
        head=Head(d_model=D, vocab_size=11, tied=False, bias=True),
    ).tensors()
    assert names["head.weight"] == (11, D)
    assert names["head.bias"] == (11,)
    assert names["layers.0.attention.q.bias"] == (24,)
    assert "layers.0.attention.k.bias" not in names
    assert names["layers.0.mlp.gate.bias"] == (20,)


@pytest.mark.parametrize("layer", [PRE, POST, PARALLEL], ids=["pre-norm", "post-norm", "parallel"])
def test_json_round_trip(layer):
    made = model(layer, layer)
    assert Spec.from_json(made.to_json()) == made
    assert hash(Spec.from_json(made.to_json())) == hash(made)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_heads": 0}, "at least 1"),
        ({"n_heads": True}, "at least 1"),
        ({"n_heads": 4.0}, "at least 1"),
        ({"n_kv_heads": 3}, "multiple"),
        ({"scale": math.nan}, "finite"),
        ({"scale": "0.5"}, "finite"),
        ({"bias": ("q", "z")}, "tuple"),
        ({"window": 0}, "at least 1"),
        ({"softcap": 0.0}, "more than zero"),
        ({"rope": Rope(dim=8, theta=1e4)}, "at most head_dim"),
        ({"q_norm": norm("q_norm", 5)}, "head_dim"),
        ({"relative_bias": spec.RelativeBias(n_buckets=32, max_distance=16)}, "fewer than the greatest distance"),
        ({"relative_bias": spec.RelativeBias(n_buckets=1, max_distance=16)}, "at least one"),
        ({"relative_bias": spec.RelativeBias(n_buckets=3, max_distance=16), "causal": False}, "at least one"),
    ],
)
def test_impossible_attention_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        attention(**change)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (lambda: Chain(Embedding(vocab_size=3, d_model=D), norm(width=D + 1)), "width 12"),
        (lambda: Chain(Embedding(vocab_size=3, d_model=D), Stack(layers=(PRE, norm(width=7)))), r"layers\.1"),
        (lambda: Chain(norm()), "width None"),
        (lambda: Chain(Embedding(vocab_size=3, d_model=D), norm("a"), norm("a")), "a.weight"),
        (lambda: Chain(Embedding(vocab_size=3, d_model=D), Embedding(name="b", vocab_size=3, d_model=D)), "token ids"),
        (
            lambda: Chain(Embedding(vocab_size=3, d_model=D), Residual(spec.Dense(name="wider", d_in=D, d_out=2 * D))),
            "residual|same width",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(body, message):
    with pytest.raises(SpecError, match=message):
        Spec(architecture="toy", context=8, body=body())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.update(node="Sepc"), "unknown node.*did you mean Spec"),
        (lambda data: data.update(contxt=3), "no field 'contxt'.*did you mean context"),
        (lambda data: data.pop("body"), "lacks the field 'body'"),
        (lambda data: data["body"]["parts"][0].update(vocab_size=-1), "vocab_size"),
        (lambda data: data["body"].update(parts=[]), "no parts"),
        (lambda data: data.update(body=7), "body"),
    ],
)
def test_json_that_is_no_spec_is_refused(change, message):
    data = json.loads(model(PRE).to_json())
    change(data)
    with pytest.raises(SpecError, match=message):
        Spec.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{}", "7", '{"node": "Norm"}', "[" * 100_000])
def test_text_that_is_no_spec_is_refused(text):
    with pytest.raises(SpecError):
        Spec.from_json(text)


def test_specs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        model(PRE).context = 5


def test_a_model_with_bidirectional_attention_does_not_generate():
    assert model(PRE).generates
    assert not model(Residual(attention(causal=False))).generates
    assert not model(PRE, head=None).generates


def test_shared_experts_and_routers_have_tensors():
    router = spec.Router(n_experts=5, top_k=2, bias=True, choice_bias=True)
    block = spec.MixtureOfExperts(d_model=D, router=router, expert=mlp(d_ff=7), shared=mlp(d_ff=9), shared_gate=True)
    assert dict(block.tensors()) == {
        "mlp.router.weight": (5, D),
        "mlp.router.bias": (5,),
        "mlp.router.choice_bias": (5,),
        "mlp.experts.gate.weight": (5, 7, D),
        "mlp.experts.up.weight": (5, 7, D),
        "mlp.experts.down.weight": (5, D, 7),
        "mlp.shared.gate.weight": (9, D),
        "mlp.shared.up.weight": (9, D),
        "mlp.shared.down.weight": (D, 9),
        "mlp.shared_gate.weight": (1, D),
    }


@pytest.mark.parametrize(
    "change", [{"n_experts": 4, "top_k": 5}, {"n_experts": 4, "top_k": 2, "n_groups": 3}, {"n_experts": 4, "top_k": 0}]
)
def test_impossible_routers_are_refused(change):
    with pytest.raises(SpecError):
        spec.Router(**change)


@given(st.integers(1, 64).map(lambda n: 2 * n), st.floats(2, 1e7))
def test_frequencies_fall_from_one(dim, theta):
    frequencies = Rope(dim=dim, theta=theta).frequencies(1)
    assert len(frequencies) == dim // 2
    assert frequencies[0] == 1.0
    assert all(a > b > 0 for a, b in zip(frequencies, frequencies[1:], strict=False))


def test_equal_llama3_bands_do_not_divide_by_zero():
    # Llama 4 Scout: low = high = 1, where the interpolation would be 0 / 0.
    scaling = spec.Llama3Scaling(factor=16.0, low_frequency=1.0, high_frequency=1.0, context=8192)
    plain, scaled = Rope(dim=128, theta=5e5).frequencies(1), Rope(dim=128, theta=5e5, scaling=scaling).frequencies(1)
    assert {round(a / b, 9) for a, b in zip(plain, scaled, strict=True)} == {1.0, 16.0}


@pytest.mark.parametrize(
    "rope",
    [
        lambda: Rope(dim=7, theta=1e4),
        lambda: Rope(dim=2, theta=1e4, scaling=spec.DynamicScaling(factor=2.0, context=8)),
        lambda: Rope(dim=8, theta=1.0),
        lambda: Rope(dim=8, theta=1e4, scaling=spec.DivisorScaling(divisors=(1.0, 2.0))),
        lambda: Rope(dim=4, theta=1e4, scaling=spec.DivisorScaling(divisors=(1.0, 0.0))),
    ],
)
def test_impossible_ropes_are_refused(rope):
    with pytest.raises(SpecError):
        rope()
