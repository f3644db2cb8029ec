"""Comparisons mark all facts that differ, and only those."""

from __future__ import annotations

import dataclasses

import pytest

import ordito
from ordito import catalogue
from ordito.errors import OrditoError
from ordito.families import spec_from_config
from ordito.spec import Attention, Chain, Residual, Stack

SHAPES = list({entry.config["model_type"]: entry for entry in catalogue.models() if entry.config}.values())


def published(name):
    return spec_from_config(catalogue.find(name).config)


def differing(*names):
    return {(row.section, row.label): row.values for row in ordito.compare(*map(published, names)).differences}


def test_llama_over_time():
    found = differing("llama-2-7b", "llama-3-8b", "llama-3.1-8b")
    assert found["attention", "n_kv_heads"] == ("32", "8", "8")
    assert found["attention", "kind"] == ("multi-head", "grouped-query", "grouped-query")
    assert found["attention", "rope.theta"] == ("10,000", "500,000", "500,000")
    assert found["attention", "rope.scaling"] == ("-", "-", "llama3")
    assert found["model", "vocab_size"] == ("32,000", "128,256", "128,256")
    assert found["model", "KV cache per token"] == ("524,288 bytes", "131,072 bytes", "131,072 bytes")
    assert ("attention", "head_dim") not in found
    assert ("mlp", "activation") not in found


def test_gemma_2_and_3():
    found = differing("gemma 2 2b", "gemma 3 1b")
    assert found["attention", "softcap"] == ("50", "-")
    assert found["head", "softcap"] == ("30", "-")
    assert found["attention", "window"] == ("13 × 4,096, 13 × -", "22 × 512, 4 × -")
    assert found["attention", "rope.theta"] == ("10,000", "22 × 10,000, 4 × 1,000,000")
    assert found["attention", "q_norm"][0] == "-"
    assert "rms" in found["attention", "q_norm"][1]


def test_where_norms_stand():
    found = differing("gpt-2-xl", "openai-community/openai-gpt")
    assert found["layer", "step 1"] == ("x + attention(norm(x))", "norm(x + attention(x))")
    assert published("phi-2") == published("phi-2")
    rows = {(row.section, row.label): row.values for row in ordito.compare(published("phi-2"), published("gpt-2-xl")).rows}
    assert rows["layer", "step 1"][0] == "x + attention(norm(x)) + mlp(norm(x))"
    assert rows["layer", "step 2"][0] == "-"


@pytest.mark.parametrize("entry", SHAPES, ids=lambda entry: entry.name)
def test_a_model_does_not_differ_from_itself(entry):
    spec = spec_from_config(entry.config)
    comparison = ordito.compare(spec, spec)
    assert comparison.differences == ()
    assert len(comparison.rows) > 10


def test_models_of_other_shape_differ():
    specs = [spec_from_config(entry.config) for entry in SHAPES]
    for one, other in zip(specs, specs[1:], strict=False):
        assert one == other or ordito.compare(one, other).differences


def mixed(**changes):
    """A small model whose second layer has a field changed."""
    spec = spec_from_config(
        {"model_type": "llama", "vocab_size": 96, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
        | {"intermediate_size": 24}
    )
    (embedding, stack, norm) = spec.body.parts

    def changed(block):
        match block:
            case Chain():
                return Chain(*map(changed, block.parts))
            case Residual():
                return Residual(changed(block.inner))
            case Attention():
                return dataclasses.replace(block, **changes)
        return block

    layers = (stack.layers[0], changed(stack.layers[1]), stack.layers[2])
    return spec, dataclasses.replace(spec, body=Chain(embedding, Stack(layers=layers), norm))


@pytest.mark.parametrize(
    "changes",
    [{"window": 8}, {"chunk": 4}, {"softcap": 3.0}, {"sinks": True}, {"rope": None}, {"scale": 0.1}, {"bias": ("q",)}],
    ids=str,
)
def test_one_layer_that_differs_is_seen(changes):
    rows = ordito.compare(*mixed(**changes)).differences
    assert any(row.section == "attention" and row.values[1].count("×") == 2 for row in rows)


def test_as_data_and_as_html():
    comparison = ordito.compare(published("llama-2-7b"), published("llama-3-8b"), names=("a<b", "c"))
    data = comparison.to_dict()
    assert data["models"] == ["a<b", "c"]
    assert {"section": "attention", "label": "n_kv_heads", "values": ["32", "8"], "differs": True} in data["rows"]
    assert "a&lt;b" in comparison._repr_html_()


def test_one_model_is_too_few():
    with pytest.raises(OrditoError, match="at least two"):
        ordito.compare(published("phi-2"))


def test_anything_but_specs_and_a_wrong_number_of_names_are_refused():
    with pytest.raises(OrditoError, match=r"compare: got str, expected a Spec: ordito\.outline\(name\)\.spec"):
        ordito.compare(published("phi-2"), "phi-2")
    with pytest.raises(OrditoError, match="got 1 names for 2 models"):
        ordito.compare(published("phi-2"), published("phi-2"), names=("a",))
