"""Logits and hidden states of tiny random models are those of transformers, through files, in both directions."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch
import transformers
from safetensors.torch import save_file
from tiny import CASES, SOURCE, error, make, output, saved, spec_of, token_ids

from ordito import families
from ordito.accounting import count
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.errors import OrditoWarning
from ordito.nn.runtime import load_transformer
from ordito.spec import MixtureOfExperts, Spec

TOLERANCE = 1e-5


LENGTH = 40  # beyond the original context of every stretched rope, and several windows long


def ours(folder, ids, valid=None, dtype=torch.float32):
    module = load_transformer(open_checkpoint(folder), dtype)
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


@pytest.mark.parametrize("name", CASES)
def test_names_in_the_memory_of_transformers_are_read(name, tmp_path):
    """Files written from `state_dict()`, whose names are not those that `save_pretrained` writes where experts are fused."""
    theirs = make(name)
    theirs.config.architectures = [CASES[name][0]]
    theirs.config.save_pretrained(tmp_path)
    save_file({key: value.clone().contiguous() for key, value in theirs.state_dict().items()}, tmp_path / "model.safetensors")
    ids = token_ids(12)
    assert error(ours(tmp_path, ids), output(theirs, ids)) <= TOLERANCE


# A router that is rounded may choose other experts, and then every number differs: routing is compared in fp32 alone.
ROUTED = [name for name in CASES if any(isinstance(leaf, MixtureOfExperts) for _, leaf in spec_of(name).leaves())]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ROUTED])
def test_bf16_agrees_to_its_own_precision(name, tmp_path):
    theirs = saved(name, tmp_path)
    ids = token_ids(20)
    exact = output(theirs, ids)
    expected = output(theirs.to(torch.bfloat16), ids).float()
    got = ours(tmp_path, ids, dtype=torch.bfloat16).float()
    # Sharp layers turn roundings into more than the precision of the type, in their arithmetic as in ours.
    assert error(got, expected) <= max(2e-2, 2 * error(expected, exact))


def renormalised(values):
    """The other way, unless it is without effect: one expert, a softmax over the chosen, SparseMixer."""
    unfelt = values["top_k"] == 1 or values["choose_first"] or values["score"] == "sparsemixer"
    return values["renormalise"] if unfelt else not values["renormalise"]


CHANGES = {
    "eps": ("Norm", lambda v: v["eps"] * 100 + 1e-3),
    "weight_offset": ("Norm", lambda v: v["weight_offset"] + 0.1),
    "theta": ("Rope", lambda v: v["theta"] * 1.05),
    "layout": ("Rope", lambda v: "half" if v["layout"] == "interleaved" else "interleaved"),
    "scaling": ("Rope", lambda v: None if v["scaling"] else v["scaling"]),
    "window": ("Attention", lambda v: v["window"] and v["window"] + 1),
    "chunk": ("Attention", lambda v: v["chunk"] and v["chunk"] + 1),
    "softcap": ("Attention", lambda v: v["softcap"] and v["softcap"] * 1.05),
    "temperature": ("Attention", lambda v: None),
    "causal": ("Attention", lambda v: v["cross"] is False and not v["causal"]),
    "scale": ("Attention LatentAttention", lambda v: v["scale"] * 1.05),
    "norm_eps": ("LatentAttention", lambda v: v["norm_eps"] + 1e-2),
    "max_distance": ("RelativeBias", lambda v: v["max_distance"] * 3),
    "activation": ("FeedForward", lambda v: "gelu" if v["activation"] == "gelu_tanh" else "gelu_tanh"),
    "limit": ("FeedForward", lambda v: v["limit"] and v["limit"] * 1.1),
    "slope": ("FeedForward", lambda v: v["slope"] * 1.1 if v["activation"] == "gelu_sigmoid" else v["slope"]),
    "up_offset": ("FeedForward", lambda v: v["up_offset"] and 0.9),
    "top_k": ("Router", lambda v: max(1, v["top_k"] - 1)),
    "renormalise": ("Router", renormalised),
    "router scale": ("Router", lambda v: v["scale"] * 1.05),
    "top_groups": ("Router", lambda v: min(v["n_groups"], v["top_groups"] + 1)),
    "jitter": ("Router", lambda v: v["jitter"] * 3),
    "capacity": ("Router", lambda v: v["capacity"] and v["capacity"] - 1),
    "weigh": ("MixtureOfExperts", lambda v: "output"),
    "head scale": ("Head", lambda v: v["scale"] * 1.05),
    "head softcap": ("Head", lambda v: v["softcap"] and v["softcap"] * 1.05),
    "embedding scale": ("Embedding", lambda v: v["scale"] * 1.05),
    "weightless q_norm": ("Attention", lambda v: v["q_norm"] and (v["q_norm"] if v["q_norm"].weight else None)),
    "attention_factor": ("YarnScaling LongRopeScaling", lambda v: 1.01 * v["attention_factor"]),
    "factor": ("YarnScaling Llama3Scaling LinearScaling DynamicScaling", lambda v: 1.05 * v["factor"]),
    "strength": ("SteppedTemperature", lambda v: 1.05 * v["strength"]),
    "period": ("SteppedTemperature", lambda v: v["period"] + 1),
    "offset": ("SteppedTemperature", lambda v: 1 - v["offset"]),
    "score": ("Router", lambda v: {"softmax": "sigmoid", "sigmoid": "softmax"}.get(v["score"], v["score"])),
    "group_score": ("Router", lambda v: "max" if v["group_score"] == "top2" and v["n_groups"] > 1 else v["group_score"]),
    "first_position": ("Embedding", lambda v: v["first_position"] and v["first_position"] - 1),
}
"""What is changed in every block of a kind -> the kinds, and the new value of the field that the key ends in."""


def mutated(spec: Spec, change: str) -> Spec:
    """The spec, wrong in one small way wherever it can be; equal to it where it cannot."""
    kinds, new = CHANGES[change]
    field = change.split()[-1]

    def visit(node):
        if isinstance(node, tuple):
            return tuple(visit(item) for item in node)
        if not dataclasses.is_dataclass(node):
            return node
        if type(node).__name__ in ("Chain", "Sum"):
            return type(node)(*visit(node.parts))
        values = {f.name: visit(getattr(node, f.name)) for f in dataclasses.fields(node)}
        if type(node).__name__ in kinds.split():
            values[field] = new(values)
        return type(node)(**values)

    return visit(spec)


@pytest.mark.parametrize("name", [name for name in CASES if "without a head" not in name and "as GGUF knows it" not in name])
def test_the_comparison_bites(name, tmp_path):
    """Every setting of every case is felt: a model that is wrong in one of them is told from the right one."""
    theirs = saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ids, felt = token_ids(LENGTH), {}
    expected = output(theirs, ids)
    for change in CHANGES:
        wrong = mutated(checkpoint.spec, change)
        if change == "embedding scale" and name.startswith("modernbert"):  # a norm follows, which takes it away
            continue
        if wrong == checkpoint.spec or wrong.tensors() != checkpoint.spec.tensors():
            continue
        module = load_transformer(dataclasses.replace(checkpoint, spec=wrong))
        with torch.no_grad():
            source = module.encode(SOURCE) if module.spec.encoder else None
            got = (module if module.spec.head else module.hidden)(ids, source=source)
        felt[change] = error(got, expected)
    assert len(felt) >= 3
    assert not {change: moved for change, moved in felt.items() if not moved > TOLERANCE}


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


@pytest.mark.parametrize("tied", [True, False])
def test_multimodal_gemma3_is_read_as_text(tied, tmp_path):
    text = make("gemma3").config.to_dict() | {"tie_word_embeddings": not tied}  # which only the whole model's key decides
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 28}
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, tie_word_embeddings=tied)
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


@pytest.mark.parametrize("name", ["mistral, one kv head, head_dim, tied", "ministral3"])
def test_multimodal_mistral3_is_read_as_text(name, tmp_path):
    vision = {
        "model_type": "pixtral",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
        "head_dim": 16,
    }
    text = make(name).config.to_dict() | {"tie_word_embeddings": False}
    config = transformers.Mistral3Config(text_config=text, vision_config=vision, image_token_index=5)
    config._attn_implementation = "eager"
    theirs = transformers.Mistral3ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    ids = token_ids(20).clamp(min=6)
    with pytest.warns(OrditoWarning, match="images"):
        got = ours(tmp_path, ids)
    assert error(got, output(theirs, ids)) <= TOLERANCE
