"""Losses: values, limits and edge cases."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ordito.train.losses import (
    cross_entropy,
    distillation,
    distillation_of_top,
    divergence,
    info_nce,
    log_probabilities,
    similarities,
    squared_error,
    top_of,
    z_loss,
)

N, V = 7, 23
BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def logits(seed, scale=2.0, dtype=torch.float32):
    return (scale * torch.randn(N, V, generator=torch.Generator().manual_seed(seed), dtype=dtype)).requires_grad_()


def grad(loss, *of):
    return torch.autograd.grad(loss, of)


def close(got, expected, tolerance=1e-6):
    return float((got - expected).detach().abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def test_cross_entropy_is_pytorchs_with_weights_and_without():
    z, targets, weights = logits(1), torch.randint(V, (N,)), torch.rand(N)
    for got, expected in [
        (cross_entropy(z, targets), F.cross_entropy(z, targets, reduction="sum")),
        (cross_entropy(z, targets, weights), (F.cross_entropy(z, targets, reduction="none") * weights).sum()),
    ]:
        assert close(got, expected)
        assert close(*grad(3 * got, z), *grad(3 * expected, z))
    assert not close(cross_entropy(z, targets), cross_entropy(z, targets, weights))


def test_z_loss_is_the_square_of_the_logarithm_of_the_sum():
    z = logits(2)
    assert close(z_loss(z), z.exp().sum(-1).log().square().sum(), 1e-5)


def test_divergence_at_its_ends_is_kl_divergence():
    s, t = (logits(seed).log_softmax(-1) for seed in (1, 2))
    assert close(divergence(s, t, 0.0), F.kl_div(s, t, reduction="sum", log_target=True))
    assert close(divergence(s, t, 1.0), F.kl_div(t, s, reduction="sum", log_target=True))
    assert not close(divergence(s, t, 0.0), divergence(s, t, 1.0))


def test_divergence_in_between_approaches_kl_divergence_at_its_ends():
    s, t = (logits(seed, dtype=torch.float64).log_softmax(-1) for seed in (1, 2))
    for small in (1e-3, 1e-5):
        assert close(divergence(s, t, small) / small, divergence(s, t, 0.0), 100 * small)
        assert close(divergence(s, t, 1 - small) / small, divergence(s, t, 1.0), 100 * small)


@pytest.mark.parametrize("beta", BETAS)
def test_divergence_has_the_gradient_of_its_value(beta):
    s, t = logits(1, dtype=torch.float64), logits(2, dtype=torch.float64).detach()
    assert torch.autograd.gradcheck(lambda z: divergence(z.log_softmax(-1), t.log_softmax(-1), beta), (s,))


@pytest.mark.parametrize("beta", BETAS)
def test_a_student_equal_to_its_teacher_has_no_loss_and_no_gradient(beta):
    s = logits(3)
    loss = distillation(s, s.detach(), beta, 2.0)
    assert abs(float(loss)) <= 1e-5
    assert float(grad(loss, s)[0].abs().max()) <= 1e-6


def test_jensen_shannon_is_at_most_ln_2_and_reaches_it():
    t, s = torch.full((N, V), -30.0), torch.full((N, V), -30.0)
    t[:, :5], s[:, 5:] = 0.0, 0.0
    apart = float(distillation(s, t, 0.5, 1.0)) / N
    assert 0.999 * math.log(2) <= apart <= math.log(2) + 1e-6
    for seed in range(20):
        for beta in (0.1, 0.5, 0.9):
            assert 0 <= float(distillation(logits(seed, 5.0), logits(seed + 50, 5.0), beta, 1.0)) / N <= math.log(2) + 1e-6


def test_the_gradient_is_independent_of_high_temperatures():
    s, t = logits(1), logits(2)
    cool, warm, hot = (grad(distillation(s, t.detach(), 0.0, T), s)[0] for T in (1.0, 100.0, 200.0))
    # The limit of high temperatures: (s - t) / V with both centred (Hinton et al., equation 4).
    limit = ((s - s.mean(-1, keepdim=True)) - (t - t.mean(-1, keepdim=True))) / V
    assert close(hot / limit.abs().max(), limit / limit.abs().max(), 0.05)
    assert close(warm / hot.abs().max(), hot / hot.abs().max(), 0.05)
    assert not close(cool, hot, 0.05)


@pytest.mark.parametrize("beta", BETAS)
def test_impossible_tokens_make_no_nan(beta):
    s, t = logits(1), logits(2)
    blocked = torch.zeros(N, V, dtype=torch.bool)
    blocked[:, 20:] = True
    s_blocked, t_blocked = (z.masked_fill(blocked, float("-inf")) for z in (s, t.detach()))
    loss = distillation(s_blocked, t_blocked, beta, 1.5)
    assert close(loss, distillation(s[:, :20], t[:, :20].detach(), beta, 1.5), 1e-5)
    assert torch.isfinite(grad(loss, s)[0]).all()


@pytest.mark.parametrize("beta", BETAS)
def test_divergence_of_top_tokens_is_a_lower_bound(beta):
    s, t = logits(1), logits(2).detach()
    whole = distillation(s, t, beta, 1.5)
    before = -1e-6
    for k in (1, 3, 8, V):
        part = distillation_of_top(s, *top_of(t, k, 1.5), beta, 1.5)
        assert before - 1e-5 <= float(part) <= float(whole) + 1e-5
        before = float(part)
    assert close(part, whole, 1e-5)
    assert close(*grad(part, s), *grad(whole, s), 1e-5)


def test_a_tiny_rest_is_not_lost_in_rounding():
    sure, t = torch.zeros(1, V), torch.zeros(1, V)
    sure[0, 0], t[0, 0] = 30.0, 1.0
    sure.requires_grad_()
    double = sure.detach().double()
    q = double.softmax(-1)
    p = t.double().softmax(-1)
    expected = p[0, 0] * (p[0, 0] / q[0, 0]).log() + (1 - p[0, 0]) * ((1 - p[0, 0]) / q[0, 1:].sum()).log()
    assert close(distillation_of_top(sure, *top_of(t, 1, 1.0), 0.0, 1.0).double(), expected)


def test_top_of_is_the_most_probable_and_the_rest():
    ids, logs = top_of(logits(4), 3, 0.7)
    expected = log_probabilities(logits(4), 0.7)
    assert torch.equal(ids, expected.topk(3).indices)
    assert close(logs.exp().sum(-1), torch.ones(N))


def test_squared_error_is_a_sum():
    assert float(squared_error(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))) == 5.0


def test_info_nce_is_cross_entropy_over_cosines():
    q, c = torch.randn(3, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    expected = 0.0
    for i in range(3):
        cosines = torch.stack([torch.cosine_similarity(q[i], c[j], dim=0) for j in range(5)])
        expected = expected - (20 * cosines).log_softmax(0)[i]
    got = info_nce(similarities(q, c), torch.arange(3), 20.0)
    assert close(got, expected)
    for mine, theirs in zip(grad(got, q, c), grad(expected, q, c), strict=True):
        assert close(mine, theirs)


def test_masked_candidates_do_not_matter():
    q, c = torch.randn(2, 8), torch.randn(4, 8, requires_grad=True)
    left_out = torch.zeros(2, 4, dtype=torch.bool)
    left_out[:, 3] = True
    got = info_nce(similarities(q, c), torch.arange(2), 20.0, left_out)
    assert close(got, info_nce(similarities(q, c[:3]), torch.arange(2), 20.0))
    assert float(grad(got, c)[0][3].abs().max()) == 0.0
