"""Mixtures of experts in training against transformers: gradients, router losses, capacity, upcycling."""

from __future__ import annotations

import pytest
import torch
import transformers
from tiny import CASES, SOURCE, answers, error, gradients_as_theirs, output, saved, token_ids
from torch.nn import functional as F
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import SwitchTransformersTop1Router

from ordito import spec as blocks
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.convert import Weights
from ordito.checkpoint.export import write_folder
from ordito.nn.feedforward import MixtureOfExperts
from ordito.nn.runtime import load_transformer
from ordito.train.batch import PADDING, collate
from ordito.train.examples import Example, Text
from ordito.train.forward import Forward
from ordito.train.objective import Objective
from ordito.train.routing import MoeSettings, with_routing
from ordito.train.terms import next_token
from ordito.train.upcycle import upcycle

IDS = token_ids(24, batch=2)


def has_experts(name):
    kind, _, config = CASES[name]
    return any("experts" in key for key in config) and not kind.endswith("Model") and ", dense," not in name


MIXTURES = [name for name in CASES if has_experts(name)]


def texts(*lengths):
    ids = token_ids(max(lengths), batch=len(lengths), seed=3)
    return [Example((Text.of(row[:n].tolist()),)) for row, n in zip(ids, lengths, strict=True)]


@pytest.mark.parametrize("name", MIXTURES)
def test_gradients_are_those_of_transformers(name, tmp_path):
    theirs = saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    module, source = load_transformer(checkpoint), SOURCE.expand(len(IDS), -1)
    inputs = {"input_ids": source, "decoder_input_ids": IDS} if answers(theirs) else {"input_ids": IDS}
    next_tokens(theirs(**inputs).logits).backward()
    next_tokens(module(IDS, source=module.encode(source) if answers(theirs) else None)).backward()
    expected = {key: parameter.grad for key, parameter in theirs.named_parameters() if parameter.grad is not None}
    found = gradients_as_theirs(module, checkpoint, theirs, tmp_path / "gradients")
    largest = max(float(grad.abs().max()) for grad in expected.values())
    for key, grad in expected.items():
        own = float(grad.abs().max())
        assert float((found[key] - grad).abs().max()) <= 1e-5 * max(own, 0.05 * largest), key
    ours = {key: parameter.grad for key, parameter in module.named_parameters()}
    routers = [grad for key, grad in ours.items() if key.endswith("router.weight")]
    assert routers
    assert min(float(grad.abs().max()) for grad in routers) >= 1e-3 * largest, "too small for a mistake to show"
    assert all(grad is None for key, grad in ours.items() if key.endswith("choice_bias"))


def next_tokens(logits):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())


DENSE = {
    "llama": ("mixtral", "MixtralForCausalLM"),
    "mistral, windows": ("mixtral", "MixtralForCausalLM"),
    "qwen2, windows, tied, one kv head": ("qwen2_moe", "Qwen2MoeForCausalLM"),
    "qwen3": ("qwen3_moe", "Qwen3MoeForCausalLM"),
}


@pytest.mark.parametrize("granularity", [1, 3])
@pytest.mark.parametrize("name", DENSE)
def test_upcycled_logits_are_those_of_the_dense_model(name, granularity, tmp_path):
    # transformers multiplies experts by kernels that want rows of 16 bytes.
    theirs = saved(name, tmp_path / "dense", intermediate_size=96)
    checkpoint = open_checkpoint(tmp_path / "dense")
    spec, weights = upcycle(checkpoint.spec, Weights(checkpoint), 4, 2, granularity=granularity)
    assert {key: array.shape for key, array in weights.items()} == spec.tensors()
    write_folder(tmp_path / "moe", spec, weights)
    moe = getattr(transformers, DENSE[name][1]).from_pretrained(tmp_path / "moe", attn_implementation="eager").eval()
    assert spec.architecture == DENSE[name][0] == moe.config.model_type
    assert error(output(moe, IDS), output(theirs, IDS)) <= 1e-6
    dense, mixture = load_transformer(checkpoint), load_transformer(open_checkpoint(tmp_path / "moe"))
    with torch.no_grad():
        assert error(mixture(IDS), dense(IDS)) <= 1e-6


def test_upcycled_layers_may_stay_dense(tmp_path):
    theirs = saved("qwen3", tmp_path / "dense", intermediate_size=96)
    checkpoint = open_checkpoint(tmp_path / "dense")
    spec, weights = upcycle(checkpoint.spec, Weights(checkpoint), 4, 1, every=2)
    assert [f"layers.{i}.mlp.router.weight" in weights for i in range(3)] == [False, True, False]
    write_folder(tmp_path / "moe", spec, weights)
    moe = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "moe", attn_implementation="eager").eval()
    assert error(output(moe, IDS), output(theirs, IDS)) <= 1e-6


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "qwen3_moe, windows, dense layers, biases", "gpt_oss", "phimoe"])
def test_load_balance_is_that_of_transformers(name, tmp_path):
    theirs = saved(name, tmp_path)
    module = load_transformer(open_checkpoint(tmp_path))
    batch = collate(texts(24, 15))
    forward = Forward(module, batch)
    objective = with_routing(Objective.of(next_token()), module, MoeSettings(balance=0.5, hf_compatible=True))
    totals, counts = objective.totals(forward), objective.counts(batch)
    mask = (batch.documents_BT != PADDING).long()
    logits = theirs(input_ids=batch.ids_BT, attention_mask=mask, output_router_logits=True).router_logits
    router = forward.routings[0].router.block
    expected = load_balancing_loss_func(logits, router.n_experts, router.top_k, mask)
    got = totals["balance"] / counts["balance"]
    assert abs(float(got - expected)) <= 1e-5 * float(expected)
    # With its gradient, at the weights of the routers themselves.
    weights = [one.router.weight for one in forward.routings]
    grads = torch.autograd.grad(got, weights)
    gates = [p for key, p in theirs.named_parameters() if p.shape == weights[0].shape and ("gate" in key or "router" in key)]
    for grad, wanted in zip(grads, torch.autograd.grad(expected, gates), strict=True):
        assert error(grad, wanted) <= 1e-5


def test_capacity_is_that_of_switch():
    config = transformers.SwitchTransformersConfig(
        d_model=12, num_experts=3, expert_capacity=4, router_jitter_noise=0.0, num_layers=1
    )
    switch = SwitchTransformersTop1Router(config)
    router = blocks.Router(n_experts=3, top_k=1, capacity=4)
    expert = blocks.FeedForward(d_model=12, d_ff=8, activation="relu", gated=False)
    mixture = MixtureOfExperts(blocks.MixtureOfExperts(d_model=12, router=router, expert=expert))
    torch.manual_seed(2)
    for parameter in mixture.parameters():
        parameter.data.normal_()
    switch.classifier.weight.data.copy_(mixture.router.weight)
    x_BTD = torch.randn(2, 20, 12)
    with torch.no_grad():
        dispatch, probs, _ = switch(x_BTD)
        got = mixture(x_BTD)
        each = torch.stack(
            [mixture.experts.grouped(x_BTD.flatten(0, 1), [40 if i == e else 0 for i in range(3)]) for e in range(3)]
        )
        expected = (dispatch.flatten(0, 1).T[..., None] * each).sum(dim=0).view_as(got) * probs
    assert 0 < float((dispatch.sum(-1) == 0).float().mean()) < 1
    assert error(got, expected) <= 1e-6
