"""Linear maps, attention and losses by the runtime against PyTorch in fp64, with their gradients."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ordito import _core
from ordito.nn.attention import probabilities
from ordito.nn.fused_attention import can_attend, fused_attention
from ordito.nn.products import KINDS, linear, use_runtime
from ordito.train.likelihood import _ByPyTorch, _ByRuntime

pytestmark = pytest.mark.skipif(not _core.has_team(), reason="PyTorch's threads are not those of OpenMP's runtime here")
HALF = pytest.mark.skipif(not _core.has_products("bfloat16"), reason="no products of bfloat16 on this processor")
TYPES = [torch.float32, pytest.param(torch.bfloat16, marks=HALF)]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch, team):
    monkeypatch.setattr("ordito.nn.products.MIN_ELEMENTS", 0)


def near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).abs().max() <= tolerance * max(1e-3, expected.double().abs().max())


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("kernels", _core.available_kernels())
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1, 1), (33, 31, 63), (130, 100, 700)])
def test_bfloat16_products_accumulate_in_fp32(kernels, m, n, k):
    for a, b in ((random(m, k), random(k, n, seed=1)), (random(k, m).T, random(n, k, seed=1).T)):
        c = torch.full((m, n), math.nan)
        try:
            _core.multiply("bfloat16", a, b, c, 2, kernels)
        except ValueError as error:
            pytest.skip(str(error))
        near(c, a.bfloat16().double() @ b.bfloat16().double(), 1e-6 * math.sqrt(k))
        rounded = torch.empty(m, n, dtype=torch.bfloat16)
        _core.multiply("bfloat16", a.bfloat16(), b, rounded, 1, kernels)
        assert torch.equal(rounded, c.bfloat16())


@pytest.fixture
def everywhere(monkeypatch):
    """Use the runtime's products in fp32 too, whatever the processor."""
    monkeypatch.setattr("ordito.nn.products._mkl_is_slow", lambda: True)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_and_its_gradients_are_those_of_pytorch(kind, bias):
    x, w, b = (random(*shape, seed=i).requires_grad_() for i, shape in enumerate([(2, 21, 40), (70, 40), (70,)]))
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        assert use_runtime(kind, x, w)
        y = linear(x, w, b if bias else None)
    assert y.dtype == kind
    y.float().square().sum().backward()
    wide = [t.detach().double().requires_grad_() for t in (x, w, b)]
    expected = F.linear(wide[0], wide[1], wide[2] if bias else None)
    expected.square().sum().backward()
    near(y, expected, TOLERANCE[kind])
    for ours, theirs in zip((x, w, b)[: 2 + bias], wide, strict=False):
        assert ours.grad.dtype == torch.float32
        near(ours.grad, theirs.grad, TOLERANCE[kind])


@pytest.mark.usefixtures("everywhere")
def test_without_gradients_pytorch_computes():
    x, w = random(5, 8), random(6, 8)
    with torch.no_grad():
        assert not use_runtime(torch.float32, x, w)
        assert torch.equal(linear(x, w), F.linear(x, w))
    assert not use_runtime(torch.float64, x.double(), w.double())
    assert not use_runtime(torch.float32, x.to("meta"), w)


def test_small_tensors_are_left_to_pytorch(monkeypatch):
    x, w = random(5, 8), random(6, 8)
    assert use_runtime(torch.float32, x, w)
    monkeypatch.setattr("ordito.nn.products.MIN_ELEMENTS", 41)
    assert not use_runtime(torch.float32, x, w)


@HALF
def test_pytorchs_own_products_are_the_same_after_ours():
    # PyTorch and the runtime both configure the processor's tile registers; each must restore its own configuration.
    a, b = random(96, 160, dtype=torch.bfloat16), random(160, 64, dtype=torch.bfloat16, seed=1)
    before = a @ b
    for _ in range(3):
        _core.multiply("bfloat16", a, b, torch.empty(96, 64), 2)
        assert torch.equal(a @ b, before)


def written_out(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float, cap: float | None, sinks: Tensor | None
) -> Tensor:
    N, G = q.shape[1], k.shape[1]
    scores = (q @ k.repeat_interleave(N // G, 1).transpose(-1, -2)) * scale
    scores = scores if cap is None else cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(~visible, -math.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(1, N, 1, 1).expand(*scores.shape[:3], 1)), dim=-1)
    weights = scores.softmax(dim=-1)[..., : k.shape[2]]
    return weights @ v.repeat_interleave(N // G, 1)


CASES = {
    "one": (1, 1, 1, 1, 1, 4, 4),
    "shared keys": (2, 6, 2, 70, 70, 24, 24),
    "values of another width": (2, 3, 3, 37, 37, 48, 20),
    "several blocks": (1, 2, 1, 300, 300, 64, 64),
    "more keys than queries": (1, 4, 2, 9, 650, 32, 32),
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("kernels", _core.available_kernels())
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("cap", "sink", "window"), [(None, False, None), (5.0, False, 20), (None, True, None)])
def test_attention_and_its_gradients_equal_the_explicit_formula(kind, kernels, case, cap, sink, window, monkeypatch):
    if kind == torch.bfloat16 and kernels not in ("amx", "reference"):
        pytest.skip("no products of bfloat16 in these kernels")
    for name in ("attend", "attend_gradient"):
        call = getattr(_core, name)
        monkeypatch.setattr(_core, name, lambda *given, call=call: call(*given, kernels))
    B, N, G, T, S, H, V = CASES[case]
    q = random(B, T, N, H, dtype=kind).transpose(1, 2)  # strides as after a linear map
    k, v = random(B, S, G, H, dtype=kind, seed=1).transpose(1, 2), random(B, G, S, V, dtype=kind, seed=2)
    sinks = random(N, seed=3) if sink else None
    behind = torch.arange(S - T, S)[:, None] - torch.arange(S)
    visible = ((behind >= 0) & (behind < (window or S)))[None, None].expand(B, 1, T, S)
    leaves = [t.detach().requires_grad_() for t in (q, k, v, sinks) if t is not None]
    with torch.autocast("cpu", kind, enabled=kind != torch.float32):
        assert can_attend(*leaves[:3])
        y = fused_attention(leaves[0], leaves[1], leaves[2], visible, H**-0.5, cap, leaves[3] if sink else None)
    upstream = random(*y.shape, seed=4).to(kind)
    y.backward(upstream)
    wide = [t.detach().double().requires_grad_() for t in leaves]
    expected = written_out(wide[0], wide[1], wide[2], visible, H**-0.5, cap, wide[3] if sink else None)
    expected.backward(upstream.double())
    near(y, expected, TOLERANCE[kind])
    for ours, theirs in zip(leaves, wide, strict=True):
        near(ours.grad, theirs.grad, 2 * TOLERANCE[kind])


def test_a_query_without_visible_keys_has_output_and_gradient_zero():
    q, k, v = (random(1, 2, 5, 8, seed=i).requires_grad_() for i in range(3))
    visible = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    visible[:, :, 3] = False
    y = fused_attention(q, k, v, visible, 0.3, None, None)
    y.sum().backward()
    assert not y[:, :, 3].any()
    assert not q.grad[:, :, 3].any()
    assert all(t.grad.isfinite().all() for t in (q, k, v))


def test_attention_is_the_same_with_any_number_of_threads(monkeypatch):
    def gradients(threads: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        q, k, v = (random(2, n, 140, 32, seed=i).requires_grad_() for i, n in enumerate((4, 2, 2)))
        y = fused_attention(q, k, v, torch.ones(1, 1, 140, 140, dtype=torch.bool).tril(), 0.2, None, None)
        y.square().sum().backward()
        return [y.detach(), q.grad, k.grad, v.grad]

    assert all(torch.equal(one, two) for one, two in zip(gradients(1), gradients(3), strict=True))


def test_probabilities_are_the_weights_of_attention():
    q, k, v = (random(1, 2, 6, 8, seed=i) for i in range(3))
    visible = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    near(fused_attention(q, k, v, visible, 0.4, 3.0, None), probabilities(q, k, visible, 0.4, softcap=3.0) @ v, 1e-6)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("way", [_ByRuntime, _ByPyTorch])
@pytest.mark.parametrize(("n", "vocabulary"), [(1, 1), (5, 100), (4, 1003)])
def test_token_losses_are_those_of_pytorch(kind, way, n, vocabulary):
    logits = (5 * random(n, vocabulary)).to(kind)
    targets = torch.arange(n) * 7 % vocabulary
    if vocabulary > 50:
        logits[:, 3] = -math.inf  # as for unused rows of a head
    leaf, weights = logits.clone().requires_grad_(), random(n, seed=1)
    losses = way.apply(leaf, targets)
    losses.backward(weights)
    wide = logits.double().requires_grad_()
    expected = F.cross_entropy(wide, targets, reduction="none")
    expected.backward(weights.double())
    near(losses, expected, 1e-5)
    assert leaf.grad.dtype == kind
    near(leaf.grad, wide.grad, TOLERANCE[kind])


def test_a_target_outside_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="target 7 of 5"):
        _ByRuntime.apply(random(2, 5).requires_grad_(), torch.tensor([1, 7]))
