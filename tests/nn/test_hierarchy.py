"""Hierarchical mixtures: a router over groups of experts, each with a router of its own (arXiv:1701.06538, appendix B)."""

from __future__ import annotations

import pytest
import torch

from ordito.accounting import count
from ordito.nn import Transformer
from ordito.spec import (
    Attention,
    Chain,
    Embedding,
    FeedForward,
    Head,
    MixtureOfExperts,
    Norm,
    Residual,
    Router,
    Spec,
    Stack,
)

D, GROUPS, EXPERTS = 16, 3, 4


def mixture(top_groups=2, top_experts=2):
    expert = FeedForward(d_model=D, d_ff=10, activation="silu", gated=True)
    inner = MixtureOfExperts(d_model=D, router=Router(n_experts=EXPERTS, top_k=top_experts, renormalise=True), expert=expert)
    return MixtureOfExperts(d_model=D, router=Router(n_experts=GROUPS, top_k=top_groups, renormalise=True), expert=inner)


def model(**choices):
    norm = Norm(name="norm", kind="rms", d_model=D, eps=1e-5)
    attention = Attention(d_model=D, n_heads=2, n_kv_heads=2, head_dim=8, scale=8**-0.5)
    layer = Chain(Residual(attention), Residual(mixture(**choices)))
    return Spec(
        architecture="hierarchy",
        context=32,
        body=Chain(Embedding(vocab_size=23, d_model=D), Stack(layers=(layer,) * 2), norm),
        head=Head(d_model=D, vocab_size=23, tied=True),
    )


def filled(spec):
    torch.manual_seed(1)
    module = Transformer(spec)
    for parameter in module.parameters():
        parameter.data.add_(0.4 * torch.randn_like(parameter))
    return module


def softmax_of_best(logits, k):
    """Weights of the k best, which sum to one; zero elsewhere."""
    best = logits.topk(k).indices
    weights = torch.zeros_like(logits)
    weights[best] = logits[best].softmax(-1)
    return weights


@torch.no_grad()
def test_it_is_the_weighted_sum_over_both_levels():
    module = filled(model())
    state = {name.removeprefix("layers.0.mlp."): tensor for name, tensor in module.state_dict().items()}
    x = torch.randn(7, D)
    expected = torch.zeros(7, D)
    for t in range(7):
        groups = softmax_of_best(state["router.weight"] @ x[t], 2)
        for g in range(GROUPS):
            inside = softmax_of_best(state["experts.router.weight"][g] @ x[t], 2)
            for e in range(EXPERTS):
                gate, up, down = (state[f"experts.experts.{part}.weight"][g, e] for part in ("gate", "up", "down"))
                expected[t] += groups[g] * inside[e] * (down @ (torch.nn.functional.silu(gate @ x[t]) * (up @ x[t])))
    got = module.get_submodule("layers.0.mlp")(x[None])[0]
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_it_is_counted_and_written():
    spec = model(top_groups=2, top_experts=1)
    expert = 3 * 10 * D
    routers = GROUPS * D + GROUPS * EXPERTS * D
    rest = 23 * D + D + 2 * 4 * D * D
    assert count(spec).parameters == rest + 2 * (routers + GROUPS * EXPERTS * expert)
    # Inactive: all experts of one group, and three experts of each of the other two.
    idle = (EXPERTS * expert + EXPERTS * D) + 2 * 3 * expert
    assert count(spec).active_parameters == count(spec).parameters - 2 * idle
    assert Spec.from_json(spec.to_json()) == spec
    assert {name: tuple(tensor.shape) for name, tensor in Transformer(spec).state_dict().items()} == spec.tensors()


def test_it_can_be_trained():
    """Every router and every expert that was chosen gets a gradient, and the loss falls."""
    torch.manual_seed(0)
    module = Transformer(model())
    for parameter in module.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    ids = torch.randint(0, 23, (8, 16))
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-2)
    losses = []
    for step in range(15):
        logits = module(ids)
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            without = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
            assert without == []
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0]


def test_compiled_equals_eager():
    module = filled(model())
    ids = torch.randint(0, 23, (2, 9))
    with torch.no_grad():
        expected = module(ids)
        torch._dynamo.reset()
        got = torch.compile(module, backend="eager")(ids)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_widths_must_fit():
    wide = FeedForward(d_model=D + 1, d_ff=10, activation="silu", gated=True)
    with pytest.raises(ValueError, match="width"):
        MixtureOfExperts(d_model=D, router=Router(n_experts=2, top_k=1), expert=wide)
