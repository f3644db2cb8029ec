"""The catalogue says what is true: its configurations give the listed sizes, which are those that the publishers print."""

from __future__ import annotations

import re
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

import pytest

from ordito import catalogue
from ordito.accounting import count
from ordito.errors import ModelNotFoundError
from ordito.families import spec_from_config

OPEN = [entry for entry in catalogue.models() if not entry.closed]
SHAPES = list({id(entry.config): entry for entry in reversed(OPEN)}.values())
CLOSED = [entry for entry in catalogue.models() if entry.closed]
UNITS = {"M": Decimal(10) ** 6, "B": Decimal(10) ** 9}


def agrees(figure, number):
    """Whether a printed figure ("46.7B") is the number, rounded or cut to the digits that are printed."""
    digits, unit = Decimal(figure[:-1]), UNITS[figure[-1]]
    return any((number / unit).quantize(digits, rounding) == digits for rounding in (ROUND_HALF_UP, ROUND_DOWN))


def published_total(entry):
    return entry.exact_parameters + sum(entry.counts_also.values())


def by_name(entries):
    return pytest.mark.parametrize("entry", entries, ids=lambda entry: entry.name)


@by_name(SHAPES)
def test_the_configuration_gives_the_listed_size(entry):
    spec = spec_from_config(entry.config, entry.name)
    assert count(spec).parameters == entry.exact_parameters
    assert entry.context in (spec.context, None)


@by_name([entry for entry in OPEN if entry.published_parameters])
def test_the_size_is_the_published_one_or_the_entry_says_why_not(entry):
    assert agrees(entry.published_parameters, published_total(entry)) == (entry.differs is None)


@by_name([entry for entry in OPEN if entry.published_active])
def test_what_is_active_is_what_the_publisher_counts(entry):
    spec = spec_from_config(entry.config, entry.name)
    active = count(spec).active_parameters
    if entry.active_excludes_embedding:
        active -= spec.vocab_size * spec.d_model
    assert agrees(entry.published_active, active)


def test_agreement_bites():
    assert agrees("46.7B", 46_702_792_704)
    assert agrees("7.61B", 7_615_616_512)
    assert agrees("671B", 671_026_404_352)
    assert not agrees("56B", 46_702_792_704)
    assert not agrees("46.6B", 46_702_792_704)
    assert not agrees("7.3B", 7_241_732_096)


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("Mixtral 8x7B v0.1", "46.7B", "12.9B"),
        ("DeepSeek-V3", "671B", "37B"),
        ("gpt-oss-120b", "116.83B", "5.13B"),
        ("Llama 4 Scout 17B-16E", "109B", "17B"),
        ("Qwen3 235B-A22B", "235B", "22B"),
    ],
)
def test_what_the_publishers_of_mixtures_say(name, total, active):
    entry = catalogue.find(name)
    assert (entry.published_parameters, entry.published_active, entry.differs) == (total, active, None)


@by_name(catalogue.models())
def test_entries_are_complete(entry):
    assert re.fullmatch(r"20[12]\d-(0[1-9]|1[0-2])", entry.released)
    assert entry.modalities
    assert entry.context or (not entry.closed and entry.config["model_type"] == "switch_transformers")
    assert entry.closed == (entry.config is None) == (entry.exact_parameters is None)
    assert entry.id or entry.config["model_type"] == "gpt3"
    assert entry.closed or entry.id is None or (entry.id.count("/") == 1 and entry.license)


def test_every_model_is_found_by_its_name_and_its_id():
    for entry in catalogue.models():
        assert catalogue.find(entry.name) is entry
        assert entry.id is None or catalogue.find(entry.id) is entry
    assert catalogue.find("LLAMA 3.1 8b").id == "meta-llama/Llama-3.1-8B"
    assert catalogue.find("deepseek_v3") is catalogue.find("deepseek-ai/DeepSeek-V3")


def test_names_and_ids_stand_for_one_model():
    for spellings in ([e.name for e in catalogue.models()], [e.id for e in catalogue.models() if e.id]):
        assert len({re.sub(r"[-_ ]", "", spelling.lower()) for spelling in spellings}) == len(spellings)
    assert catalogue.find("gpt3-1.3b") is not catalogue.find("gpt3-13b")


def test_an_unknown_model_gets_near_names():
    with pytest.raises(ModelNotFoundError, match="no model 'Mistral 7C'; did you mean .*mistral-7b"):
        catalogue.find("Mistral 7C")


def test_each_family_has_a_title():
    assert catalogue.titles().keys() == {entry.family for entry in catalogue.models()}
    assert {"gpt", "claude", "gemini"} == {entry.family for entry in CLOSED}


@pytest.mark.parametrize("name", ["GPT-2 small", "SmolLM2 135M", "Gemma 3 270M", "Minerva 350M base", "Qwen3 0.6B"])
def test_transformers_counts_the_same(name):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    entry = catalogue.find(name)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**entry.config))
    model.tie_weights()
    assert sum(parameter.numel() for parameter in model.parameters()) == entry.exact_parameters


def test_short_names_mean_one_shape_or_are_refused():
    assert catalogue.find("gpt2").name == "GPT-2 small"
    assert catalogue.find("mixtral-8x7b").name == "Mixtral 8x7B v0.1"
    assert catalogue.find("llama-4-scout").name == "Llama 4 Scout 17B-16E"
    assert catalogue.find("phi-3-mini").name == "Phi-3-mini 4k"  # the 128k variants differ in context only
    assert catalogue.find("phi-3-small").name == "Phi-3-small 8k"
    assert catalogue.find("phi-3-medium").name == "Phi-3-medium 4k"
    with pytest.raises(ModelNotFoundError, match="several models.*Mistral 7B v0.1, Mistral 7B Instruct v0.1"):
        catalogue.find("mistral-7b")
    with pytest.raises(ModelNotFoundError):
        catalogue.find("--")
