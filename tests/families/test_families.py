from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito import catalogue, families, spec
from ordito.checkpoint.convert import expressible
from ordito.errors import ConfigError, OrditoWarning, SpecError
from ordito.families import config_from_spec, family_of, header_from_spec, spec_from_config, spec_from_header
from ordito.families.naming import Interleaved, Shifted

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GEMMA = LLAMA | {"model_type": "gemma", "head_dim": 12}
BERT = LLAMA | {"model_type": "bert"}
BERT.pop("num_key_value_heads")
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}

CONFIGS = {
    "llama": LLAMA,
    "llama, old rope keys": LLAMA | {"rope_theta": 1e5, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "llama 3.2": LLAMA
    | {
        "head_dim": 64,
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 8192},
        "tie_word_embeddings": True,
    },
    "llama, yarn": LLAMA | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}},
    "llama, biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "gemma": GEMMA,
    "gemma2": GEMMA | {"model_type": "gemma2", "query_pre_attn_scalar": 12, "sliding_window": 9},
    "gemma3": GEMMA | {"model_type": "gemma3_text", "query_pre_attn_scalar": 12, "sliding_window": 9, "num_hidden_layers": 7},
    "gemma3, old rope keys": GEMMA
    | {
        "model_type": "gemma3_text",
        "query_pre_attn_scalar": 12,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "sliding_window_pattern": 2,
    },
}


@pytest.mark.parametrize("name", [*CONFIGS, "bert"])
def test_config_to_spec_and_back(name):
    made = spec_from_config(CONFIGS.get(name, BERT))
    assert spec_from_config(config_from_spec(made)) == made


@pytest.mark.parametrize("name", CONFIGS)
def test_gguf_header_to_spec_and_back(name):
    made = spec_from_config(CONFIGS[name])
    back = spec_from_header(header_from_spec(made))
    assert rounded(back) == rounded(made)
    assert spec_from_config(config_from_spec(back)) == back  # a GGUF file becomes a folder


@pytest.mark.parametrize(("low", "original"), [(1.0, 16), (2.0, 8192)])
def test_llama3_scalings_of_other_bands_are_written_to_gguf_as_divisors(low, original):
    scaling = LLAMA3 | {"low_freq_factor": low, "original_max_position_embeddings": original}
    made = spec_from_config(LLAMA | {"head_dim": 64, "rope_scaling": scaling})
    back = spec_from_header(header_from_spec(made))
    ropes = [next(leaf.rope for _, leaf in found.attentions) for found in (made, back)]
    assert ropes[0] != ropes[1]
    assert ropes[1].frequencies(1) == pytest.approx(ropes[0].frequencies(1), rel=1e-6)
    assert spec_from_config(config_from_spec(back)) == back


@pytest.mark.parametrize("scale", [10**-0.5, 0.3, 1e-200, 1e200])
def test_gguf_rounds_the_scale_of_a_gemma_to_fp32(scale):
    header = header_from_spec(spec_from_config(CONFIGS["gemma2"]))
    rounded_scale = float(np.float32(scale)) if 1e-38 < scale < 1e38 else scale
    made = spec_from_header(replace(header, metadata={**header.metadata, "gemma2.attention.scale": rounded_scale}))
    attention = next(leaf for _, leaf in made.attentions)
    assert attention.scale == (scale if scale == 10**-0.5 else rounded_scale)
    if scale == 10**-0.5:
        assert config_from_spec(made)["query_pre_attn_scalar"] == 10
    else:
        with pytest.raises(ConfigError, match="cannot express"):
            config_from_spec(made)


@pytest.mark.parametrize(
    ("change", "activation"),
    [
        ({"hidden_act": "gelu"}, "gelu_tanh"),  # the first Gemma's checkpoints
        ({"hidden_act": "relu"}, "relu"),
        ({"hidden_act": "gelu", "hidden_activation": "relu"}, "relu"),
        ({"model_type": "gemma2", "hidden_act": "relu"}, "gelu_tanh"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, "gelu"),
    ],
)
def test_activation_of_gemma_is_read_as_transformers_does(change, activation):
    made = spec_from_config(GEMMA | change)
    assert next(leaf.activation for _, leaf in made.leaves() if isinstance(leaf, spec.FeedForward)) == activation


def test_ministral3_in_the_old_spelling_has_its_temperature():
    yarn = {"factor": 4.0, "original_max_position_embeddings": 512, "llama_4_scaling_beta": 0.1}
    config = LLAMA | {"model_type": "ministral3", "head_dim": 12}
    made = spec_from_config(config | {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, **yarn}})
    assert spec_from_config(config | {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", **yarn}}) == made
    assert next(leaf.temperature.strength for _, leaf in made.attentions) == 0.1


def test_ministral3_without_a_rope_has_that_of_its_class():
    config = LLAMA | {"model_type": "ministral3", "head_dim": 12}
    explicit = transformers.Ministral3Config(**{key: value for key, value in config.items() if key != "model_type"}).to_dict()
    assert spec_from_config(config) == spec_from_config(explicit)


def test_gguf_header_of_a_mixture_without_experts_is_refused():
    config = LLAMA | {"model_type": "qwen3_moe", "decoder_sparse_step": 9, "head_dim": 12}
    with pytest.raises(ConfigError, match="a model without experts"):
        header_from_spec(spec_from_config(config))


def test_gguf_header_of_an_encoder():
    made = spec_from_config(BERT)
    bare = families.bert.build(
        vocab_size=61,
        d_model=40,
        n_layers=3,
        n_heads=4,
        d_ff=56,
        n_positions=512,
        n_types=2,
        eps=1e-12,
        pooling=spec.Pooling(kind="mean", normalise=True),
    )
    assert spec_from_header(header_from_spec(bare)) == bare
    with pytest.raises(ConfigError, match="pooler"):
        header_from_spec(made)


def rounded(made):
    """The spec as a dict, numbers to seven digits: what GGUF's fp32 metadata keeps."""

    def visit(value):
        if isinstance(value, dict):
            return {key: visit(item) for key, item in value.items()}
        if isinstance(value, list):
            return [visit(item) for item in value]
        return float(f"{value:.7g}") if isinstance(value, float) else value

    return visit(made.to_dict())


@pytest.mark.parametrize("name", [*CONFIGS, "bert"])
def test_names_are_invertible(name):
    made = spec_from_config(CONFIGS.get(name, BERT))
    family = family_of(made)
    tables = [family.names(made)] + ([family.gguf.names(made)] if name != "bert" else [])
    for names in tables:
        bindings = names.bindings(made)
        assert sorted(name for binding in bindings for name in binding.ours) == sorted(made.tensors())
        theirs = [name for binding in bindings for name in binding.theirs]
        assert len(set(theirs)) == len(theirs)
        assert [names.usual(name) for name in theirs] == theirs, "a name of the table is not its own usual spelling"
        assert not any(names.why_ignored(name) for name in theirs)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.booleans())
def test_rope_permutation_has_an_inverse(heads, half, width, flat):
    shape = (heads * 2 * half,) if flat else (heads * 2 * half, width)
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    change = Interleaved(heads)
    assert np.array_equal(change.theirs(change.ours(array)), array)
    assert np.array_equal(change.ours(change.theirs(array)), array)
    # Channels i and i + H/2 of a head, a pair, are neighbours in theirs.
    assert change.theirs(array).reshape(heads, half, 2, -1)[0, 0, 1, 0] == array.reshape(heads, 2, half, -1)[0, 1, 0, 0]


def test_shift_has_an_inverse():
    array = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    assert np.array_equal(Shifted(1.0).ours(Shifted(1.0).theirs(array)), array)
    assert Shifted(1.0).ours(array).dtype == np.float32


def test_an_unknown_key_is_reported():
    with pytest.warns(OrditoWarning, match=r"unknown keys.*'hiden_act'.*did you mean hidden_act"):
        spec_from_config(LLAMA | {"hiden_act": "relu"})
    with pytest.warns(OrditoWarning, match="beta_quick"):
        spec_from_config(LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0, "beta_quick": 1}})


def test_bookkeeping_keys_are_not_reported():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spec_from_config(
            LLAMA | {"torch_dtype": "bfloat16", "transformers_version": "4.40", "_name_or_path": "x", "bos_token_id": 1}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "lama"}, "did you mean llama"),
        ({"model_type": None}, "model_type.*missing"),
        ({"model_type": 7}, "a string"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": -4}, "from 1 to"),
        ({"hidden_size": 40.5}, "whole number"),
        ({"hidden_size": True}, "whole number"),
        ({"hidden_size": "40"}, "whole number"),
        ({"hidden_size": math.inf}, "whole number"),
        ({"hidden_size": 2**40}, "from 1 to"),
        ({"num_key_value_heads": 3}, "multiple"),
        ({"rms_norm_eps": 0}, "above zero"),
        ({"rms_norm_eps": math.nan}, "above zero"),
        ({"rms_norm_eps": 10**400}, "above zero"),
        ({"hidden_act": "sillu"}, "did you mean silu"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "one of default"),
        ({"rope_scaling": {"type": "spiral"}}, "one of default"),
        ({"rope_scaling": {"type": "linear"}}, "'factor' is missing"),
        ({"rope_scaling": [1]}, "an object"),
        ({"rope_theta": 0.5}, "more than 1"),
        ({"head_dim": 7}, "even"),
        ({"architectures": "LlamaForCausalLM"}, "a list"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(change, message):
    with pytest.raises((ConfigError, SpecError), match=message):
        spec_from_config(LLAMA | change)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GEMMA | {"model_type": "gemma2", "layer_types": ["full_attention"]}, "3 entries"),
        (GEMMA | {"model_type": "gemma2", "layer_types": ["a", "b", "c"]}, "3 entries"),
        (GEMMA | {"model_type": "gemma3"}, "text half"),
        (BERT | {"position_embedding_type": "relative_key"}, "absolute"),
        (BERT | {"architectures": ["BertForSequenceClassification"]}, "BertModel, BertForMaskedLM or BertForPreTraining"),
        ("config", "expected an object"),
    ],
)
def test_what_a_family_does_not_have_is_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        spec_from_config(config)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.dictionaries(
        st.sampled_from([*LLAMA, "head_dim", "rope_scaling", "rope_parameters", "layer_types", "sliding_window", "hidden_act"]),
        st.none()
        | st.booleans()
        | st.integers(-3, 9)
        | st.floats()
        | st.text(max_size=3)
        | st.lists(st.integers(), max_size=2),
        min_size=1,
        max_size=3,
    ),
)
def test_any_config_gives_a_spec_or_one_of_our_errors(name, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = spec_from_config(CONFIGS[name] | changes)
        except (ConfigError, SpecError) as error:
            assert "\n" not in str(error)
        else:
            assert made.tensors()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "lama"}, "did you mean llama"),
        ({"general.architecture": 3}, "expected a string"),
        ({"llama.block_count": None}, "'block_count' is missing"),
        ({"llama.expert_count": 8}, "expert_used_count"),
        ({"llama.rope.scaling.type": "spiral"}, "one of none"),
        ({"llama.attention.head_count": 0}, "from 1"),
    ],
)
def test_wrong_gguf_metadata_says_what_is_wrong(change, message):
    header = header_from_spec(spec_from_config(LLAMA))
    wrong = families.Header({**header.metadata, **change}, header.shapes, header.values)
    with pytest.raises(ConfigError, match=message):
        spec_from_header(wrong)


def test_an_unknown_gguf_key_is_reported():
    header = header_from_spec(spec_from_config(LLAMA))
    with pytest.warns(OrditoWarning, match=r"attention\.spin"):
        spec_from_header(families.Header({**header.metadata, "llama.attention.spin": 3}, header.shapes, header.values))


def test_a_spec_that_the_format_cannot_express_is_refused():
    made = spec_from_config(LLAMA)
    stack = made.body.parts[1]
    odd = spec.Stack(layers=(stack.layers[0], spec.Residual(stack.layers[1]), stack.layers[2]))
    changed = spec.Spec(
        architecture="llama", context=made.context, body=spec.Chain(made.body.parts[0], odd, made.body.parts[2]), head=made.head
    )
    with pytest.raises(ConfigError, match="cannot express"):
        config_from_spec(changed)


def test_gguf_has_no_key_for_dynamic_rope_scaling():
    made = spec_from_config(LLAMA | {"rope_scaling": {"type": "dynamic", "factor": 2.0}})
    with pytest.raises(ConfigError, match="DynamicScaling"):
        header_from_spec(made)


def test_a_family_is_found_by_being_there(tmp_path, monkeypatch):
    (tmp_path / "toy.py").write_text(
        "from dataclasses import replace\n"
        "from ordito.families import llama\n"
        "def spec_from_config(config):\n"
        "    return replace(llama.spec_from_config(config), architecture='toy')\n"
        "def config_from_spec(spec):\n"
        "    return llama.config_from_spec(spec) | {'model_type': 'toy'}\n"
        "FAMILY = replace(llama.FAMILY, name='toy', model_types=('toy',), spec_from_config=spec_from_config,\n"
        "                 config_from_spec=config_from_spec, gguf=replace(llama.FAMILY.gguf, architectures=('toy',)))\n"
    )
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    families.families.cache_clear()
    try:
        made = spec_from_config(LLAMA | {"model_type": "toy"})
        assert family_of(made).name == "toy"
        assert spec_from_config(config_from_spec(made)) == made
    finally:
        families.families.cache_clear()


# One published configuration of each model_type, from the catalogue, whose configurations tests/test_catalogue.py checks.
KINDS = {entry.config["model_type"]: entry.config for entry in catalogue.models() if entry.config}
WRONG = (
    st.none()
    | st.booleans()
    | st.integers(-3, 2**33)
    | st.floats()
    | st.text(max_size=3)
    | st.lists(st.integers(-1, 3), max_size=3)
    | st.dictionaries(st.sampled_from(["rope_type", "factor", "type"]), st.text(max_size=3) | st.floats(), max_size=2)
)


@settings(deadline=None, max_examples=500)
@given(st.data(), st.sampled_from(sorted(KINDS)))
def test_any_config_of_any_family_gives_a_spec_or_one_of_our_errors(data, label):
    config = dict(KINDS[label])
    for key in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[key] = data.draw(WRONG)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            made = spec_from_config(config)
        except (ConfigError, SpecError) as error:
            assert "\n" not in str(error)
        else:
            assert made.body.width_after(None) == made.d_model


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3"])
def test_llama_cpp_computes_the_usual_scale_of_gemma(name):
    usual = spec_from_config(CONFIGS[name])
    assert families.gguf_of(family_of(usual)).caveat(usual) is None
    if name != "gemma":
        other = spec_from_config(CONFIGS[name] | {"query_pre_attn_scalar": 10})
        assert "llama.cpp will compute other numbers" in families.gguf_of(family_of(other)).caveat(other)


def caveat(spec):
    return families.gguf_of(family_of(spec)).caveat(spec)


PARTLY = {"head_dim": 12, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
PHIMOE = {"attention_bias": True, "lm_head_bias": True}
TOLD = [
    ("gemma", {"tie_word_embeddings": False}, "refuse.* this one has a head of its own"),
    ("gemma2", {"tie_word_embeddings": False}, "refuse.* this one has a head of its own"),
    *((name, PARTLY, "refuse.* rotated") for name in ("llama", "mistral", "mixtral", "qwen2", "qwen3_moe", "gpt_oss")),
    ("phi3", {"sliding_window": 7}, "other numbers.* more than 7 tokens"),
    ("phimoe", PHIMOE, "other numbers.* one after the other"),
    ("phimoe", PHIMOE | {"lm_head_bias": False}, "refuse.* biases"),
    ("gpt_oss", {}, "other numbers.* YaRN"),
]


@pytest.mark.parametrize(("name", "changes", "told"), TOLD)
def test_what_llama_cpp_refuses_or_computes_otherwise_is_told(name, changes, told):
    assert re.search(told, caveat(spec_from_config(LLAMA | {"model_type": name} | changes)))


def test_published_models_of_which_llama_cpp_computes_something_else():
    def told(entry):
        try:
            bare, _ = expressible(spec_from_config(entry.config))
        except ConfigError:
            return False
        return caveat(bare) is not None

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {entry.name for entry in catalogue.models() if entry.config and told(entry)}
    assert found == {"gpt-oss-20b", "gpt-oss-120b", "Phi-3-mini 4k", "Phi-3-medium 4k", "Phi-3.5-MoE"}
