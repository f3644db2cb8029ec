"""RMSNorm, SwiGLU and rotary embeddings with gradients, by PyTorch and by the runtime, against explicit formulas in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ordito import _core
from ordito.nn import lean
from ordito.nn.lean import rms_norm, rotate_heads, silu_gate

RUNTIME = pytest.mark.skipif(not _core.has_team(), reason="PyTorch's threads are not those of OpenMP's runtime here")


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch, team):
    monkeypatch.setattr("ordito.nn.products.MIN_ELEMENTS", 0)


def near(got: Tensor, expected: Tensor, tolerance: float) -> None:
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).abs().max() <= tolerance * max(1, expected.abs().max())


def leaves(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def wide(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.detach().double().requires_grad_() for tensor in tensors]


@pytest.fixture(params=[pytest.param("runtime", marks=RUNTIME), "pytorch"])
def way(request, monkeypatch):
    if request.param == "pytorch":
        monkeypatch.setattr(lean, "use_runtime", lambda *given: False)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("to", [torch.float32, torch.bfloat16])
def test_rms_norm_equals_the_explicit_formula(to):
    x, weight = leaves((2, 70, 33), (33,))
    y = rms_norm(x, weight, 1e-5, to)
    y.float().square().sum().backward()
    x_, weight_ = wide([x, weight])
    expected = x_ * (x_.square().mean(dim=-1, keepdim=True) + 1e-5).rsqrt() * weight_
    expected.square().sum().backward()
    tolerance = 1e-5 if to == torch.float32 else 1e-2
    assert y.dtype == to
    for ours, theirs in ((y, expected), (x.grad, x_.grad), (weight.grad, weight_.grad)):
        near(ours, theirs, tolerance)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_silu_gate_equals_the_explicit_formula(dtype):
    gate, up = leaves((3, 5, 70), (3, 5, 70), dtype=dtype)
    y = silu_gate(gate, up)
    y.float().square().sum().backward()
    gate_, up_ = wide([gate, up])
    expected = F.silu(gate_) * up_
    expected.square().sum().backward()
    for ours, theirs in ((y, expected), (gate.grad, gate_.grad), (up.grad, up_.grad)):
        assert ours.dtype == dtype
        near(ours, theirs, 1e-5 if dtype == torch.float32 else 2e-2)


@RUNTIME
@pytest.mark.parametrize("interleaved", [False, True])
def test_heads_are_rotated_by_the_angles_of_their_tokens(interleaved):
    (x,) = leaves((2, 3, 11, 20))
    angles = torch.randn(2, 1, 11, 6, generator=torch.Generator().manual_seed(1))
    y = rotate_heads(x.transpose(1, 2).contiguous().transpose(1, 2), angles.cos(), angles.sin(), interleaved)
    assert y is not None
    y.square().mul(torch.arange(20)).sum().backward()
    (x_,) = wide([x])
    first, kept = x_[..., :12], x_[..., 12:]
    a, b = (first[..., 0::2], first[..., 1::2]) if interleaved else first.chunk(2, dim=-1)
    cos, sin = angles.double().cos(), angles.double().sin()
    turned = (a * cos - b * sin, b * cos + a * sin)
    both = torch.stack(turned, dim=-1).flatten(-2) if interleaved else torch.cat(turned, dim=-1)
    expected = torch.cat((both, kept), dim=-1)
    expected.square().mul(torch.arange(20)).sum().backward()
    near(y, expected, 1e-6)
    near(x.grad, x_.grad, 1e-5)


@RUNTIME
def test_without_gradients_rotate_heads_returns_none():
    x, angles = torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 2)
    assert rotate_heads(x, angles, angles, False) is not None
    with torch.no_grad():
        assert rotate_heads(x, angles, angles, False) is None
