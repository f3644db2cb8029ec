"""Mixtures in training: balancing losses, what is counted, the choice bias, expert capacity."""

from __future__ import annotations

from functools import partial

import forked
import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from ordito.errors import OrditoError
from ordito.nn import Transformer
from ordito.nn.capacity import within_capacity
from ordito.nn.feedforward import MixtureOfExperts
from ordito.spec import Attention, Chain, Embedding, FeedForward, Head, Norm, Residual, Router, Spec, Stack
from ordito.spec import MixtureOfExperts as Mixture
from ordito.train.batch import collate
from ordito.train.examples import Example, Text
from ordito.train.forward import Forward
from ordito.train.losses import z_loss
from ordito.train.objective import Objective
from ordito.train.routing import (
    MoeSettings,
    after_step,
    balance,
    balance_of_transformers,
    choices,
    probabilities,
    sequence_balance,
    updated_bias,
    with_routing,
)
from ordito.train.terms import next_token

V, D, E, K = 31, 16, 4, 2
EVERYTHING = MoeSettings(balance=0.3, z=0.2, sequence_balance=0.1)
V3 = {"score": "sigmoid", "choice_bias": True, "renormalise": True}


def model(*, dense=False, weigh="output", seed=0, **router):
    expert = FeedForward(d_model=D, d_ff=12, activation="silu", gated=True)
    mixture = Mixture(d_model=D, router=Router(n_experts=E, top_k=K, **router), expert=expert, weigh=weigh)
    attention = Attention(d_model=D, n_heads=2, n_kv_heads=2, head_dim=8, scale=8**-0.5)
    layer = Chain(Residual(attention), Residual(expert if dense else mixture))
    norm = Norm(name="norm", kind="rms", d_model=D, eps=1e-5)
    body = Chain(Embedding(vocab_size=V, d_model=D), Stack(layers=(layer,) * 2), norm)
    torch.manual_seed(seed)
    module = Transformer(Spec(architecture="tiny", context=64, body=body, head=Head(d_model=D, vocab_size=V, tied=True)))
    for name, parameter in module.named_parameters():
        parameter.data.add_((0.1 if "choice" in name else 0.2) * torch.randn_like(parameter))
    return module


def examples(*lengths):
    generator = np.random.default_rng(1)
    return [Example((Text.of(generator.integers(0, V, length).tolist()),)) for length in lengths]


def run(module, settings, batches):
    """The terms of a step, divided into batches: totals over counts; gradients are left in the module."""
    objective = with_routing(Objective.of(next_token()), module, settings)
    counts = {term.name: sum(objective.counts(batch)[term.name] for batch in batches) for _, term in objective.terms}
    found = dict.fromkeys(counts, 0.0)
    module.zero_grad()
    for batch in batches:
        totals = objective.totals(Forward(module, batch))
        objective.loss(totals, counts).backward()
        found = {name: value + float(totals[name].detach()) / counts[name] for name, value in found.items()}
    return found, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def same(one, other, tolerance=2e-6):
    assert one.keys() == other.keys()
    for name in one:
        a, b = torch.as_tensor(one[name]), torch.as_tensor(other[name])
        assert float((a - b).abs().max()) <= tolerance * float(b.abs().max()), name


def test_balance_is_1_if_uniform_and_e_if_one_expert_gets_all():
    even = torch.full((8, E), 1 / E)
    assert float(balance(even, torch.full((E,), 8 * K // E), K)) / 8 == pytest.approx(1)
    one = torch.nn.functional.one_hot(torch.zeros(8, dtype=torch.long), E).float()
    assert float(balance(one, torch.tensor([8, 0, 0, 0]), 1)) / 8 == pytest.approx(E)


def test_balance_is_its_formula():
    logits, generator = torch.randn(9, E), np.random.default_rng(0)
    chosen = torch.from_numpy(np.stack([generator.permutation(E)[:K] for _ in range(9)]))
    P, f = logits.softmax(-1).numpy().mean(0), np.array([(chosen.numpy() == e).sum() for e in range(E)]) / (9 * K)
    assert float(balance(logits.softmax(-1), choices(chosen, E), K)) / 9 == pytest.approx(E * (f * P).sum(), rel=1e-6)


def test_opposite_layers_look_balanced_to_transformers_only():
    logits = torch.zeros(2, 6, 2)
    logits[0, :, 0] = logits[1, :, 1] = 50.0
    chosen = logits.argmax(-1, keepdim=True)
    assert float(balance_of_transformers(logits, choices(chosen, 2))) / 6 == pytest.approx(1)
    apart = [float(balance(logits[i].softmax(-1), choices(chosen[i], 2), 1)) / 6 for i in range(2)]
    assert apart == pytest.approx([2, 2])


def test_sequence_balance_sums_over_texts():
    scores = torch.rand(10, E)
    P = scores / scores.sum(-1, keepdim=True)
    texts = torch.tensor([0] * 7 + [1] * 3)
    each = [float(balance(P[texts == i], choices(P[texts == i].topk(K).indices, E), K)) / n for i, n in ((0, 7), (1, 3))]
    assert float(sequence_balance(P, texts, 2, K)) == pytest.approx(sum(each), rel=1e-6)


def test_probabilities_and_z():
    logits = torch.randn(5, E)
    torch.testing.assert_close(probabilities(logits, "softmax"), logits.softmax(-1))
    torch.testing.assert_close(probabilities(logits, "sigmoid").sum(-1), torch.ones(5))
    assert float(z_loss(logits)) == pytest.approx(float((logits.exp().sum(-1).log() ** 2).sum()), rel=1e-5)


def test_the_bias_update_opposes_the_counts():
    moved = updated_bias(torch.tensor([0.5, 0.0, 0.0, 0.0]), torch.tensor([6, 1, 3, 2]), 0.1)
    assert moved.tolist() == pytest.approx([0.4, 0.1, 0.0, 0.1])


@pytest.mark.parametrize("router", [{}, V3], ids=["softmax", "sigmoid"])
def test_padding_is_not_counted(router):
    module = model(**router)
    listed = examples(9, 14)
    same(*(run(module, EVERYTHING, [collate(listed, length)])[0] for length in (14, 40)))
    same(*(run(module, EVERYTHING, [collate(listed, length)])[1] for length in (14, 40)))


@pytest.mark.parametrize("router", [{}, V3], ids=["softmax", "sigmoid"])
def test_packed_rows_have_the_losses_of_separate_rows(router):
    module, listed = model(**router).train(), examples(9, 14, 5)
    settings = EVERYTHING.model_copy(update={"capacity_factor": 0.8})
    apart, packed = collate(listed), collate(listed, rows=[[0, 2], [1]])
    same(run(module, settings, [apart])[0], run(module, settings, [packed])[0])
    same(run(module, settings, [apart])[1], run(module, settings, [packed])[1])


def test_z_and_sequence_balance_do_not_depend_on_micro_batches():
    module, listed = model(), examples(9, 14, 5)
    settings = EVERYTHING.model_copy(update={"balance": 0.0})
    parts = [collate(listed[:1]), collate(listed[1:])]
    (whole, grads), (cut, grads_cut) = run(module, settings, [collate(listed)]), run(module, settings, parts)
    for numbers in (whole, cut):
        del numbers["expert_load"]  # depends on the micro-batches: a maximum over each
    same(cut, whole)
    same(grads_cut, grads)


def test_the_balance_of_a_step_is_the_mean_by_tokens_of_its_micro_batches():
    module, listed = model(), examples(9, 14)
    one, other, both = [
        run(module, EVERYTHING, cut)[0]["balance"]
        for cut in ([[collate(listed[:1])], [collate(listed[1:])], [collate(listed[:1]), collate(listed[1:])]])
    ]
    assert both == pytest.approx((9 * one + 14 * other) / 23, rel=1e-6)


def test_recomputed_layers_count_once():
    settings = EVERYTHING.model_copy(update={"bias_speed": 0.01})
    found = []
    for recompute in (False, True):
        module = model(**V3).train()
        if recompute:
            for layer in module.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        numbers, grads = run(module, settings, [collate(examples(9, 14))])
        counts = [part.router.choices_E for part in module.modules() if isinstance(part, MixtureOfExperts)]
        assert [int(count.sum()) for count in counts] == [23 * K] * 2
        found.append((numbers, grads, dict(enumerate(counts))))
    for one, other in zip(*found, strict=True):
        same(one, other, 0.0)


def test_the_bias_update_uses_all_choices_of_a_step():
    module, settings = model(**V3).train(), MoeSettings(bias_speed=0.01)
    listed = examples(9, 14, 5)
    router = module.layers[0].mlp.router
    before = router.choice_bias.detach().clone()
    objective = with_routing(Objective.of(next_token()), module, settings)
    whole = choices(Forward(module, collate(listed)).routings[0].chosen_TK, E)
    for part in (listed[:1], listed[1:]):
        objective.totals(Forward(module, collate(part)))
    module.eval()
    objective.totals(Forward(module, collate(listed)))  # an evaluation in between
    assert torch.equal(router.choices_E, whole)
    after_step(module, settings)
    assert router.choices_E is None
    torch.testing.assert_close(router.choice_bias, before + 0.01 * torch.sign(whole.float().mean() - whole))
    assert router.choice_bias.grad is None
    moved = router.choice_bias.detach().clone()
    after_step(module, settings)
    assert torch.equal(router.choice_bias, moved)


def test_the_bias_balances_the_load():
    module, settings = model(**V3).train(), MoeSettings(bias_speed=0.005)
    for part in module.modules():
        if isinstance(part, MixtureOfExperts):
            part.router.choice_bias.data[0] = 1.0
    batch = collate(examples(*[20] * 8))
    objective = with_routing(Objective.of(next_token()), module, settings)
    loads = []
    for _ in range(250):
        loads.append(float(objective.totals(Forward(module, batch))["expert_load"].detach()) / batch.n_tokens)
        after_step(module, settings)
    assert loads[0] >= 1.8
    assert max(loads[-5:]) <= 1.25


def test_capacity_equals_brute_force():
    generator = torch.Generator().manual_seed(4)
    chosen = torch.stack([torch.randperm(E, generator=generator)[:K] for _ in range(12)])
    weights = torch.rand(12, K, generator=generator)
    texts = torch.tensor([1] * 5 + [0] * 2 + [2] * 5)
    room = torch.tensor([9, 2, 1])
    for by in (None, weights):
        expected = torch.zeros(12, K)
        for text in range(3):
            for e in range(E):
                slots = [(t, k) for t in range(12) for k in range(K) if texts[t] == text and chosen[t, k] == e]
                if by is not None:
                    slots.sort(key=lambda slot: -float(weights[slot]))
                for slot in slots[: room[text]]:
                    expected[slot] = 1.0
        assert torch.equal(within_capacity(chosen, texts, room, E, by), expected)
        assert 0 < float(expected.mean()) < 1


def test_capacity_factors_apply_in_training_only():
    batch = collate(examples(9, 14))
    module = model()
    free = Forward(module.train(), batch).hidden_BTD
    with_routing(Objective.of(next_token()), module, MoeSettings(capacity_factor=E / K))
    assert torch.equal(Forward(module, batch).hidden_BTD, free)
    for keep in ("first", "likeliest"):
        with_routing(Objective.of(next_token()), module, MoeSettings(capacity_factor=0.6, keep=keep))
        assert not torch.allclose(Forward(module.train(), batch).hidden_BTD, free)
        assert torch.equal(Forward(module.eval(), batch).hidden_BTD, free)


@pytest.mark.parametrize("weigh", ["input", "output"])
def test_routing_is_in_fp32_under_autocast(weigh):
    module, batch = model(weigh=weigh), collate(examples(9, 14))
    with torch.autocast("cpu", torch.bfloat16):
        objective = with_routing(Objective.of(next_token()), module, EVERYTHING)
        forward = Forward(module, batch)
        loss = objective.loss(objective.totals(forward), objective.counts(batch))
    loss.backward()
    one = forward.routings[0]
    assert one.logits_TE.dtype == torch.float32
    assert not torch.equal(one.logits_TE, one.logits_TE.to(torch.bfloat16).float())
    assert all(torch.isfinite(p.grad).all() for p in module.parameters())


def test_nothing_is_recorded_outside_of_a_forward_pass():
    module = model()
    Forward(module, collate(examples(5))).hidden_BTD  # noqa: B018 - it is made here
    assert all(part.router.record is None for part in module.modules() if isinstance(part, MixtureOfExperts))
    assert not Forward(model(dense=True), collate(examples(5))).routings


def test_settings_without_effect_on_the_model_are_refused():
    objective = Objective.of(next_token())
    assert with_routing(objective, model(dense=True), MoeSettings()) == objective
    with pytest.raises(OrditoError, match=r"moe\.z is for mixtures of experts, but this tiny model has none"):
        with_routing(objective, model(dense=True), MoeSettings(z=0.1))
    with pytest.raises(OrditoError, match="have no choice bias"):
        with_routing(objective, model(), MoeSettings(bias_speed=0.1))
    with pytest.raises(OrditoError, match="the routers are frozen"):
        with_routing(objective, model(**V3).requires_grad_(False), MoeSettings(bias_speed=0.1))


def _of_one_process(results):
    rank = torch.distributed.get_rank()
    module, settings = model(**V3).train(), MoeSettings(bias_speed=0.01)
    objective = with_routing(Objective.of(next_token()), module, settings)
    objective.totals(Forward(module, collate(examples(9, 14)[rank : rank + 1])))
    after_step(module, settings)
    torch.save(module.layers[1].mlp.router.choice_bias.detach(), f"{results}/{rank}")


def test_processes_update_the_bias_by_the_counts_of_all(tmp_path):
    forked.together(_of_one_process, 2, tmp_path / "processes", tmp_path)
    module, settings = model(**V3).train(), MoeSettings(bias_speed=0.01)
    objective = with_routing(Objective.of(next_token()), module, settings)
    objective.totals(Forward(module, collate(examples(9, 14))))
    after_step(module, settings)
    for rank in range(2):
        assert torch.equal(torch.load(tmp_path / str(rank)), module.layers[1].mlp.router.choice_bias)
