"""Training with the runtime's kernels, which small models do not use by default, against transformers."""

from __future__ import annotations

import pytest
from tiny import gradients_as_theirs, saved, token_ids
from torch.nn import functional as F

from ordito import _core
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.nn.runtime import load_transformer
from ordito.train.losses import cross_entropy

pytestmark = [
    pytest.mark.skipif(not _core.has_team(), reason="PyTorch's threads are not those of OpenMP's runtime here"),
    pytest.mark.usefixtures("team"),
]
IDS = token_ids(40, batch=2)
NAMES = [
    "llama",
    "llama, one kv head, all biases, head_dim, llama3",
    "gemma2",  # caps and windows
    "gemma3, one kv head, capped",
    "gpt2",
    "gpt_oss",  # sinks
    "deepseek2, groups, all biases, tied",  # latent attention, pairs of neighbours turned
    "mistral, windows",
    "mixtral, windows, head_dim, three of four",
    "phi, one kv head, norms on heads, another part turned",
    "phimoe, one magnitude",
    "qwen3, biases, windows, tied, one kv head",
]


@pytest.mark.parametrize("name", NAMES)
def test_losses_and_gradients_are_those_of_transformers(name, tmp_path, monkeypatch):
    monkeypatch.setattr("ordito.nn.products.MIN_ELEMENTS", 0)
    monkeypatch.setattr("ordito.nn.products._mkl_is_slow", lambda: True)
    calls = {"multiply": 0, "attend_gradient": 0, "cross_entropy_gradient": 0}
    for which in calls:
        real = getattr(_core, which)

        def counted(*given, which=which, real=real):
            calls[which] += 1
            return real(*given)

        monkeypatch.setattr(_core, which, counted)
    theirs = saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    module, targets = load_transformer(checkpoint), IDS[:, 1:].flatten()
    expected_loss = F.cross_entropy(theirs(input_ids=IDS).logits[:, :-1].flatten(0, 1), targets)
    expected_loss.backward()
    loss = cross_entropy(module(IDS)[:, :-1].flatten(0, 1), targets) / len(targets)
    loss.backward()
    assert all(calls.values()), calls
    assert abs(float(loss.detach() - expected_loss.detach())) <= 1e-5 * float(expected_loss.detach())
    found = gradients_as_theirs(module, checkpoint, theirs, tmp_path / "gradients")
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters() if parameter.grad is not None}
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for key, grad in expected.items():
        # Twice what is allowed where both sides compute with the same operations: here each rounds in its own order.
        bound = 2e-5 * max(float(grad.abs().max()), 0.05 * largest)
        assert float((found[key] - grad).abs().max()) <= bound, key
