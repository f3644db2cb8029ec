"""The tree holds every parameter and every byte once, also where layers are folded."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ordito import catalogue
from ordito.accounting import account
from ordito.accounting.tree import ranges
from ordito.errors import OrditoError
from ordito.families import spec_from_config

TINY = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 1000}
SHAPES = {id(entry.config): entry for entry in catalogue.models() if entry.config}


@dataclass(frozen=True)
class Held:
    encoding: str
    nbytes: float


@pytest.mark.parametrize("entry", SHAPES.values(), ids=lambda entry: entry.name)
def test_sums(entry):
    found = account(spec_from_config(entry.config))
    tree, parameters = found.tree, found.parameters
    assert tree.parameters == parameters.total + parameters.ahead
    assert parameters.total == entry.exact_parameters
    for _, part in tree.walk():
        if part.parts:
            for what in ("parameters", "active", "nbytes"):
                assert getattr(part, what) == pytest.approx(sum(getattr(below, what) for below in part.parts), rel=1e-12)
    assert found.nbytes == sum(2 * _numbers(shape) for shape in found.spec.tensors().values())


def _numbers(shape):
    product = 1
    for size in shape:
        product *= size
    return product


def test_anything_but_a_spec_is_refused():
    with pytest.raises(OrditoError, match=r"account: got str, expected a Spec: ordito\.outline"):
        account("llama-3-8b")


def test_layers_of_one_kind_stand_together():
    found = account(spec_from_config({"model_type": "deepseek_v3", "num_hidden_layers": 5, "num_nextn_predict_layers": 1}))
    layers = next(part for part in found.tree.parts if part.name == "layers")
    assert [(part.name, part.times) for part in layers.parts] == [("0-2", 3), ("3-4", 2)]
    router = next(part for _, part in layers.parts[1].walk() if part.name == "router")
    assert (router.times, router.parameters) == (2, 2 * 256 * 7168)
    experts = next(part for _, part in layers.parts[1].walk() if part.name == "experts")
    assert experts.active * 256 == experts.parameters * 8


def test_bytes_are_those_of_the_file():
    spec = spec_from_config(TINY | {"num_hidden_layers": 3})
    stored = {name: Held("Q8_0" if "norm" not in name else "F32", 10.5 + i) for i, name in enumerate(spec.tensors())}
    found = account(spec, stored)
    assert found.nbytes == round(sum(held.nbytes for held in stored.values()))
    assert set(found.tree.encodings) == {"Q8_0", "F32"}
    assert found.weights_read == pytest.approx(
        sum(held.nbytes / (spec.vocab_size if name.startswith("embedding") else 1) for name, held in stored.items())
    )


def test_layers_stored_differently_are_still_folded():
    spec = spec_from_config(TINY | {"num_hidden_layers": 4})
    stored = {n: Held("Q6_K", 130.0) if n.startswith("layers.2") else Held("Q4_K", 100.0) for n in spec.tensors()}
    layers = next(part for part in account(spec, stored).tree.parts if part.name == "layers")
    assert [part.times for part in layers.parts] == [4]
    assert layers.parts[0].encodings == ("Q4_K", "Q6_K")


def test_a_tied_head_is_read_whole():
    """A tied embedding is read whole as the head; an untied one by one row a token."""
    config = TINY | {"num_hidden_layers": 1}
    tied, own = (account(spec_from_config(config | {"tie_word_embeddings": tie})) for tie in (True, False))
    assert tied.weights_read == tied.nbytes
    assert own.weights_read == own.nbytes - 2 * 64 * 999


@pytest.mark.parametrize("name", ["t5-small", "switch-base-8"])
def test_a_token_of_an_answer_reads_nothing_of_the_encoder(name):
    """The weights that are read are those that FLOPs are counted for, two each, apart from norms and position biases."""
    found = account(spec_from_config(catalogue.find(name).config))
    matrices = found.flops.decode(1).weights
    assert found.weights_read == pytest.approx(matrices, rel=0.01)
    assert found.weights_read >= matrices


@pytest.mark.parametrize("name", ["t5-small", "switch-base-8"])
def test_a_source_reads_the_encoder_and_what_cross_attention_keeps_of_it(name):
    found = account(spec_from_config(catalogue.find(name).config))
    assert found.flops.prefill(512) == found.flops.encode(512)
    assert found.read_at_once(1) == pytest.approx(found.flops.encode(1).weights, rel=0.01)


def test_a_text_reads_each_weight_once_and_each_expert_that_is_chosen():
    dense = account(spec_from_config(TINY | {"num_hidden_layers": 2}))
    rows = 2 * 64 * 1000 * (1 - (1 - 1 / 1000) ** 50)  # of the embedding, those that are likely to come up
    assert dense.read_at_once(50) == pytest.approx(dense.nbytes - 2 * 64 * 1000 + rows)
    mixtral = account(spec_from_config(catalogue.find("mixtral-8x7b").config))
    assert mixtral.read_at_once(1) == pytest.approx(mixtral.weights_read)
    assert mixtral.weights_read < mixtral.read_at_once(2) < 2 * mixtral.weights_read
    assert mixtral.read_at_once(500) == pytest.approx(mixtral.nbytes, rel=0.01)


def test_numbers_in_runs():
    assert ranges([5]) == "5"
    assert ranges([0, 2, 3]) == "0, 2-3"
