"""Logits and hidden states of tiny random models are those of transformers, through files, in both directions."""

from __future__ import annotations

import dataclasses
import warnings

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


def mutated(spec: Spec, change: str) -> Spec:
    """A spec that is wrong in one small way."""

    def visit(node):
        if isinstance(node, tuple):
            return tuple(visit(item) for item in node)
        if not dataclasses.is_dataclass(node):
            return node
        if type(node).__name__ in ("Chain", "Sum"):
            return type(node)(*visit(node.parts))
        values = {f.name: visit(getattr(node, f.name)) for f in dataclasses.fields(node)}
        match change, type(node).__name__:
            case "eps", "Norm":
                values["eps"] *= 100
            case "theta", "Rope":
                values["theta"] *= 1.01
            case "window", "Attention" if values["window"]:
                values["window"] += 1
            case "scale", "Attention":
                values["scale"] *= 1.01
            case "erf", "FeedForward":
                values["activation"] = "gelu"
            case "softcap", "Head":
                values["softcap"] = 3.01
            case "embedding scale", "Embedding":
                values["scale"] *= 1.01
        return type(node)(**values)

    return visit(spec)


@pytest.mark.parametrize("change", ["eps", "theta", "window", "scale", "erf", "softcap", "embedding scale"])
def test_the_comparison_bites(change, tmp_path):
    theirs = saved("gemma3, one kv head, capped", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    wrong = dataclasses.replace(checkpoint, spec=mutated(checkpoint.spec, change))
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
