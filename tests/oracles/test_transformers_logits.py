"""Logits and hidden states of tiny random models are those of transformers, through files, in both directions."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tiny import CASES, SOURCE, error, make, output, saved, token_ids

from ordito import families
from ordito.account import count
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.errors import OrditoWarning
from ordito.nn.runtime import load_transformer
from ordito.spec import Spec

TOLERANCE = 1e-5
LENGTH = 40  # beyond the original context of every stretched rope, and several windows long


def ours(folder, ids, valid=None):
    module = load_transformer(open_checkpoint(folder))
    with torch.no_grad():
        source = module.encode(SOURCE.expand(ids.shape[0], -1)) if module.spec.encoder else None
        read = module if module.spec.head else module.hidden
        return read(ids, valid=valid, source=source)


@pytest.mark.parametrize("name", CASES)
def test_files_of_transformers_give_its_logits(name, tmp_path):
    theirs = saved(name, tmp_path)
    ids = token_ids(LENGTH)
    assert error(ours(tmp_path, ids), output(theirs, ids)) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_short_texts_give_its_logits(name, tmp_path):
    theirs = saved(name, tmp_path)
    ids = token_ids(9)
    assert error(ours(tmp_path, ids), output(theirs, ids)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in CASES if "dynamic" not in name and "longrope" not in name])
def test_padded_batches_give_its_logits(name, tmp_path):
    # Ropes that stretch with the longest row are left out: in transformers a short row turns as the longest one does.
    theirs = saved(name, tmp_path)
    ids, valid = token_ids(24, batch=2), torch.ones(2, 24, dtype=torch.bool)
    valid[1, 15:] = False
    got, expected = ours(tmp_path, ids, valid), output(theirs, ids, attention_mask=valid.long())
    assert error(got[valid], expected[valid]) <= TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_our_files_give_the_same_logits_in_transformers(name, tmp_path):
    theirs = saved(name, tmp_path / "theirs")
    checkpoint = open_checkpoint(tmp_path / "theirs")
    write_folder(tmp_path / "ours", checkpoint.spec, dict(checkpoint))
    again = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids = token_ids(LENGTH)
    assert torch.equal(output(again, ids), output(theirs, ids))


@pytest.mark.parametrize("name", CASES)
def test_config_makes_the_round_trip(name, tmp_path):
    config = make(name).config
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrditoWarning)
        spec = families.spec_from_config(config.to_dict() | {"architectures": [CASES[name][0]]})
    assert families.spec_from_config(families.config_from_spec(spec)) == spec
    assert Spec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("name", CASES)
def test_tensors_are_those_of_transformers(name, tmp_path):
    theirs = saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    unused = {key: parameter for key, parameter in theirs.named_parameters() if key.endswith(tuple(checkpoint.ignored) or "-")}
    used = sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in unused.values())
    assert count(checkpoint.spec).parameters == used
    # An untied masked-language head has a bias of its own beside the one that transformers makes and never reads.
    assert len(checkpoint.ignored) == ("masked, untied" in name)


def test_bf16_agrees_to_its_own_precision(tmp_path):
    theirs = saved("gemma3", tmp_path).to(torch.bfloat16)
    module = load_transformer(open_checkpoint(tmp_path), torch.bfloat16)
    ids = token_ids(20)
    with torch.no_grad():
        assert error(module(ids).float(), output(theirs, ids).float()) <= 2e-2


CHANGES = {
    "gemma3, one kv head, capped": [
        ("Norm", "eps", lambda eps: 100 * eps),
        ("Rope", "theta", lambda theta: 1.01 * theta),
        ("Attention", "window", lambda window: window and window + 1),
        ("Attention", "scale", lambda scale: 1.01 * scale),
        ("FeedForward", "activation", lambda _: "gelu"),
        ("Head", "softcap", lambda _: 3.01),
        ("Embedding", "scale", lambda scale: 1.01 * scale),
    ],
    "deepseek2, lite": [
        ("LatentAttention", "scale", lambda scale: 1.001 * scale),
        ("LatentAttention", "norm_eps", lambda eps: 100 * eps),
        ("YarnScaling", "attention_factor", lambda factor: 1.001 * factor),
        ("YarnScaling", "factor", lambda factor: 1.01 * factor),
        ("Rope", "layout", lambda _: "half"),
        ("Router", "scale", lambda scale: 1.001 * scale),
        ("Router", "renormalise", lambda _: True),
        ("Router", "top_k", lambda k: k + 1),
    ],
    "deepseek2, groups, all biases, tied": [
        ("Router", "top_groups", lambda n: n + 1),
        ("Router", "n_groups", lambda _: 2),
        ("Router", "group_score", lambda _: "top2"),
    ],
    "deepseek2, unlike magnitudes": [("YarnScaling", "attention_factor", lambda _: 1.0)],
    "deepseek3": [
        ("Router", "score", lambda _: "softmax"),
        ("Router", "renormalise", lambda _: False),
        ("Router", "scale", lambda scale: 1.001 * scale),
        ("Router", "group_score", lambda _: "max"),
        ("Router", "top_groups", lambda n: n + 1),
    ],
    "deepseek3, half rope, not renormalised, biases": [
        ("Rope", "layout", lambda _: "interleaved"),
        ("Router", "renormalise", lambda _: True),
    ],
    "llama4": [
        ("Attention", "chunk", lambda chunk: chunk and chunk + 1),
        ("Attention", "q_norm", lambda _: None),
        ("SteppedTemperature", "strength", lambda strength: 1.01 * strength),
        ("SteppedTemperature", "period", lambda period: period + 1),
        ("SteppedTemperature", "offset", lambda _: 0),
        ("Llama3Scaling", "factor", lambda factor: 1.01 * factor),
        ("Rope", "layout", lambda _: "half"),
        ("Router", "score", lambda _: "softmax"),
        ("MixtureOfExperts", "weigh", lambda _: "output"),
    ],
}
"""Case -> node, field and what is wrong with it then: every special feature matters to the logits that are compared."""


def mutated(spec: Spec, kind: str, field: str, wrong: Callable[[Any], Any]) -> Spec:
    """A spec that is wrong in one small way."""

    def visit(node):
        if isinstance(node, tuple):
            return tuple(visit(item) for item in node)
        if not dataclasses.is_dataclass(node):
            return node
        if type(node).__name__ in ("Chain", "Sum"):
            return type(node)(*visit(node.parts))
        values = {f.name: visit(getattr(node, f.name)) for f in dataclasses.fields(node)}
        if type(node).__name__ == kind:
            values[field] = wrong(values[field])
        return type(node)(**values)

    return visit(spec)


@pytest.mark.parametrize(("name", "change"), [(name, change) for name, changes in CHANGES.items() for change in changes])
def test_the_comparison_bites(name, change, tmp_path):
    theirs = saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    wrong = dataclasses.replace(checkpoint, spec=mutated(checkpoint.spec, *change))
    ids = token_ids(LENGTH)
    with torch.no_grad():
        got = load_transformer(wrong)(ids)
    assert error(got, output(theirs, ids)) > TOLERANCE


@pytest.mark.parametrize("swap", [("gate", "up"), ("q", "o"), ("attention_norm", "mlp_norm")])
def test_swapped_tensors_are_noticed(swap, tmp_path):
    theirs = saved("llama", tmp_path)
    module = load_transformer(open_checkpoint(tmp_path))
    ids = token_ids(LENGTH)
    state = module.state_dict()
    for name in list(state):
        parts = name.split(".")
        if parts[-2] == swap[0] and state[name].shape == (other := state[".".join([*parts[:-2], swap[1], parts[-1]])]).shape:
            state[name], state[".".join([*parts[:-2], swap[1], parts[-1]])] = other.clone(), state[name].clone()
    module.load_state_dict(state)
    with torch.no_grad():
        assert error(module(ids), output(theirs, ids)) > TOLERANCE


def test_multimodal_gemma3_is_read_as_text(tmp_path):
    text = make("gemma3").config.to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    config._attn_implementation = "eager"
    theirs = transformers.Gemma3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    ids = token_ids(20)
    with pytest.warns(OrditoWarning, match="images"):
        got = ours(tmp_path, ids)
    assert error(got, output(theirs, ids)) <= TOLERANCE


def test_multimodal_llama4_is_read_as_text(tmp_path):
    text = make("llama4").config.to_dict()
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 28,
        "vision_output_dim": 32,
        "projector_input_dim": 32,
        "projector_output_dim": 32,
    }
    config = transformers.Llama4Config(text_config=text, vision_config=vision)
    config._attn_implementation = "eager"
    theirs = transformers.Llama4ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    ids = token_ids(20)
    with pytest.warns(OrditoWarning, match="images"):
        got = ours(tmp_path, ids)
    assert error(got, output(theirs, ids)) <= TOLERANCE
