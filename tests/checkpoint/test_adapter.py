"""Adapters are read as written; invalid ones, and those of another base, are refused in one sentence."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from ordito.checkpoint.adapted import adapted
from ordito.checkpoint.adapter import CONFIG, WEIGHTS, LowRank, open_adapter
from ordito.checkpoint.adapter_experts import PARAMETERS, changed_tensors, wrapper_names
from ordito.checkpoint.adapter_names import changes_by_ours, changes_by_theirs, saved_by_theirs
from ordito.checkpoint.adapter_write import write_adapter
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import ConfigError, OrditoError, OrditoWarning
from ordito.families import spec_from_config

SPEC = spec_from_config(
    {
        "model_type": "phi3",
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "pad_token_id": None,
    }
)
O_PROJ = "model.layers.0.self_attn.o_proj"
A, B = (f"base_model.model.{O_PROJ}.lora_{part}.weight" for part in "AB")


def floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture
def base(tmp_path):
    write_folder(tmp_path / "base", SPEC, {name: floats(*shape) for name, shape in SPEC.tensors().items()})
    return open_checkpoint(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path):
    """A folder with an adapter of rank 3 of one map."""
    write_adapter(tmp_path / "adapter", {O_PROJ: LowRank(floats(3, 8), floats(8, 3), 2.0)}, base="org/base")
    return tmp_path / "adapter"


def change(folder, config=None, tensors=None):
    """Write the adapter again with some keys and tensors replaced, added, or (None) left out."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    now = {name: tensor.to_float32().copy() for name, tensor in read_safetensors(folder / WEIGHTS).tensors.items()}
    write_safetensors(folder / WEIGHTS, {k: v for k, v in (now | (tensors or {})).items() if v is not None})


def refused(folder, message, base=None):
    with pytest.raises(OrditoError, match=message) as caught:
        adapted(base, open_adapter(folder)) if base else open_adapter(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_round_trip(adapter, base):
    read = open_adapter(adapter)
    assert read.base == "org/base"
    merged = adapted(base, read)
    expected = floats(8, 8) + 2 * floats(8, 3) @ floats(3, 8)
    assert np.allclose(merged.read("layers.0.attention.o.weight"), expected, atol=1e-5)
    unchanged = base.read("layers.1.attention.o.weight")
    assert np.array_equal(merged.read("layers.1.attention.o.weight"), unchanged)
    assert merged.bindings == base.bindings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"peft_type": None}, "'peft_type' is missing"),
        ({"r": 0}, "r is 0, expected a whole number from 1"),
        ({"r": True}, "r is True, expected a whole number"),
        ({"r": 4}, r"lora_A has shape \[3, 8\] and lora_B \[8, 3\], expected \[4, in\] and \[out, 4\]"),
        ({"rank_pattern": {"o_proj": 2}}, r"expected \[2, in\]"),
        ({"rank_pattern": {"o_proj": "2"}}, "o_proj is '2', expected a whole number"),
        ({"rank_pattern": [3]}, r"rank_pattern is \[3\], expected an object"),
        ({"alpha_pattern": {"o_proj": float("inf")}}, "expected a finite number"),
        ({"alpha_pattern": {"[": 3}}, "expected a regular expression"),
        ({"alpha_pattern": {"(a+)+b": 3}}, "expected a name, or a simple pattern"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"target_modules": 3}, "target_modules is 3"),
        ({"target_modules": ["q", 3]}, "target_modules is"),
        ({"layers_to_transform": [-1]}, "layers_to_transform"),
        ({"modules_to_save": "lm_head"}, "modules_to_save is 'lm_head', expected a list"),
        ({"bias": "some"}, "bias is 'some', expected one of none, all, lora_only"),
        ({"use_rslora": 1}, "use_rslora is 1, expected true or false"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is 5"),
        ({"base_model_name_or_path": "a" * 501}, "expected the name of a model"),
        ({"alpha_pattern": {f"m{i}": 1 for i in range(4097)}}, "expected at most 4096"),
        ({"lora_bias": True}, "lora_bias is True, expected none: this variant"),
        ({"target_parameters": ["mlp.router.bias"]}, "target_parameters is 'mlp.router.bias', expected ends of names"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', expected a start that leaves the base as it is"),
    ],
)
def test_invalid_configurations_are_refused(adapter, config, message):
    change(adapter, config)
    refused(adapter, message)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"r": ' + "9" * 5000 + "}", '{"r": 3}'])
def test_a_file_that_is_no_configuration_is_refused(adapter, content):
    (adapter / CONFIG).write_text(content)
    refused(adapter, "adapter_config.json")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({B: None}, "has lora_A but no lora_B"),
        ({A: None}, "has lora_B but no lora_A"),
        ({A: floats(2, 8)}, r"expected \[3, in\]"),
        ({A: floats(3)}, r"lora_A has shape \[3\]"),
        ({A: floats(3, 8, 1)}, "expected f32, bf16, f16 of one or two dimensions"),
        ({A: np.ones((3, 8), np.int32)}, "is i32 of shape"),
        ({A.replace("lora_A.weight", "lora_A.default.weight"): floats(3, 8)}, "is there twice, in other spellings"),
        ({A.replace("lora_A.weight", "lora_embedding_A"): floats(3, 8)}, "no lora_embedding_B"),
        ({A.replace("lora_A.weight", "lora_magnitude_vector"): floats(3)}, r"has shape \[3\], expected \[8\]"),
        ({A: None, B: None}, "holds no tensors"),
    ],
)
def test_tensors_that_form_no_adapter_are_refused(adapter, tensors, message):
    change(adapter, tensors=tensors)
    refused(adapter, message)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            {A: floats(3, 9)},
            r"changes 'model\.layers\.0\.self_attn\.o_proj' as a tensor of shape \(8, 9\), expected .*\(8, 8\)",
        ),
        ({A.replace(".0.", ".2."): floats(3, 8), B.replace(".0.", ".2."): floats(8, 3)}, "which the base model does not have"),
        ({A.replace("o_proj", "q_proj"): floats(3, 8), B.replace("o_proj", "q_proj"): floats(8, 3)}, "did you mean .*qkv_proj"),
        ({"base_model.model.lm_head.weight": floats(12, 8)}, r"'lm_head.weight' as a tensor of shape \(12, 8\)"),
        ({"base_model.model.score.weight": floats(2, 8)}, r"'score\.weight', which the base model does not have.*'org/base'"),
        ({A.replace("lora_A.weight", "lora_B.bias"): floats(8)}, r"lora_B\.bias', which the base"),
    ],
)
def test_adapters_of_another_base_are_refused(adapter, base, tensors, message):
    change(adapter, tensors=tensors)
    refused(adapter, message, base)
    with pytest.raises(OrditoError, match=message):
        changes_by_ours(open_adapter(adapter), SPEC)


def test_a_pickle_is_refused_with_the_way_to_convert_it(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    refused(adapter, r"safetensors\.torch\.save_file")


def test_missing_weights_are_reported(adapter):
    (adapter / WEIGHTS).unlink()
    refused(adapter, "there is no such file")


def test_unknown_keys_are_reported(adapter):
    change(adapter, {"use_doras": True})
    with pytest.warns(OrditoWarning, match="'use_doras'; did you mean use_dora"):
        open_adapter(adapter)


def test_a_pattern_of_modules_from_outside_is_not_run(adapter):
    change(adapter, {"target_modules": "(a*)*" * 20 + "b"})
    assert open_adapter(adapter).changes.keys() == {O_PROJ}


def test_the_slowest_allowed_patterns_are_quick(adapter):
    name = "a" * 400
    dearest = "a*a*" + "a?" * 8 + "b"
    change(
        adapter,
        {"alpha_pattern": {dearest: 3}},
        {A: None, B: None, f"{name}.lora_A": floats(3, 8), f"{name}.lora_B": floats(8, 3)},
    )
    start = time.perf_counter()
    open_adapter(adapter)
    assert time.perf_counter() - start < 5


def test_parts_of_a_fused_map_are_written_as_one(adapter, base):
    changes = {
        "layers.0.attention.q": LowRank(floats(2, 8, seed=1), floats(8, 2, seed=2), 0.5),
        "layers.0.attention.v": LowRank(floats(3, 8, seed=3), floats(8, 3, seed=4), 2.0),
    }
    theirs = changes_by_theirs(changes, SPEC)
    assert {name: change.rank for name, change in theirs.items()} == {"model.layers.0.self_attn.qkv_proj": 5}
    write_adapter(adapter, theirs, base="org/base")
    merged = adapted(base, open_adapter(adapter))
    for part in "qkv":
        name = f"layers.0.attention.{part}"
        expected = base.read(f"{name}.weight")
        if name in changes:
            expected = changes[name].merged(expected)
        assert np.allclose(merged.read(f"{name}.weight"), expected, atol=1e-5)


@pytest.mark.parametrize("parts", [PARAMETERS[:1], PARAMETERS[1:], PARAMETERS, PARAMETERS[::-1]])
def test_the_wrappers_of_stacked_experts_tell_their_tensors(parts):
    wrappers = wrapper_names([f"layers.{layer}.mlp.experts.{part}" for layer in (0, 1) for part in parts])
    assert changed_tensors(wrappers.values(), parts) == {wrapper: tensor for tensor, wrapper in wrappers.items()}


@pytest.mark.parametrize(
    ("saved", "kind"),
    [
        ((), "none"),
        ((f"{O_PROJ}.bias",), "lora_only"),
        ((f"{O_PROJ}.bias", "model.norm.bias"), "all"),
        (("lm_head.weight", "lm_head.bias"), "none"),  # a whole module
    ],
)
def test_the_configuration_says_which_biases_are_trained(adapter, saved, kind):
    write_adapter(adapter, {O_PROJ: LowRank(floats(3, 8), floats(8, 3), 2.0)}, base="b", saved=dict.fromkeys(saved, floats(8)))
    assert json.loads((adapter / CONFIG).read_text())["bias"] == kind
    assert open_adapter(adapter).saved.keys() == set(saved)


def test_the_change_of_one_expert_is_merged_and_stacked_with_zero_changes_of_others(adapter, tmp_path):
    config = {"model_type": "mixtral", "vocab_size": 11, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    spec = spec_from_config(config | {"num_attention_heads": 2, "num_key_value_heads": 2, "num_local_experts": 3})
    write_folder(tmp_path / "moe", spec, {name: floats(*shape) for name, shape in spec.tensors().items()})
    change = LowRank(floats(2, 8), floats(12, 2), 1.0)
    write_adapter(adapter, {"model.layers.0.block_sparse_moe.experts.1.w1": change}, base="org/moe")
    base, name = open_checkpoint(tmp_path / "moe"), "layers.0.mlp.experts.gate.weight"
    expected = base.read(name).copy()
    expected[1] = change.merged(expected[1])
    assert np.array_equal(adapted(base, open_adapter(adapter)).read(name), expected)
    stacked = changes_by_ours(open_adapter(adapter), spec)[0]["layers.0.mlp.experts.gate"]
    assert stacked.shape == (3, 12, 8)
    assert np.array_equal(stacked.merged(base.read(name)), expected)


def test_changes_without_a_form_on_the_hub_are_not_written(adapter):
    plain = LowRank(floats(2, 8), floats(8, 2), 1.0)
    dora = LowRank(floats(2, 8), floats(8, 2), 1.0, floats(8))
    with pytest.raises(OrditoError, match="need magnitudes, or none"):
        changes_by_theirs({"layers.0.attention.q": dora}, SPEC)
    with pytest.raises(OrditoError, match="no map for the change of 'layers.9.attention.q'"):
        changes_by_theirs({"layers.9.attention.q": plain}, SPEC)
    with pytest.raises(OrditoError, match=r"no tensor for 'layers\.0\.attention\.q\.weight' alone"):
        saved_by_theirs({"layers.0.attention.q.weight": floats(8, 8)}, SPEC)
    with pytest.raises(ConfigError, match="without a single change"):
        write_adapter(adapter, {}, base="org/base")
    with pytest.raises(ConfigError, match="all or none"):
        write_adapter(adapter, {"a": plain, "b": dora}, base="org/base")
    with pytest.raises(OrditoError, match="cannot be written"):
        write_adapter(adapter / CONFIG, {"a": plain}, base="org/base")
