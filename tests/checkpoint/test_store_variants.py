"""Which files of a repository belong to the chosen model."""

from __future__ import annotations

import pytest

from ordito.checkpoint.store.variants import choose, gguf_sets, quant_tag
from ordito.errors import ModelNotFoundError

GGUF = {
    "README.md": 5,
    "m-IQ2_XS.gguf": 20,
    "m-Q4_0.gguf": 40,
    "m-Q4_K_M.gguf": 45,
    "m-Q8_0.gguf": 80,
    "m-f16-00001-of-00002.gguf": 100,
    "m-f16-00002-of-00002.gguf": 60,
    "mmproj-m-Q4_K_M.gguf": 9,
    "m.imatrix.gguf": 9,
    "config.json": 1,
}


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("gemma-3-270m-q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("qwen2.5-0.5b-instruct-fp16.gguf", "F16"),
        ("Llama-BF16.gguf", "BF16"),
        ("m-UD-Q2_K_XL.gguf", "UD-Q2_K_XL"),
        ("m-IQ4_XS.gguf", "IQ4_XS"),
        ("m-TQ1_0.gguf", "TQ1_0"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("Q6_K/big-00001-of-00003.gguf", "Q6_K"),
        ("BF16/big-Q6_K-00001-of-00003.gguf", "Q6_K"),
        ("model.gguf", None),
        ("Q.gguf", None),
    ],
)
def test_quantization_of_a_name(name: str, tag: str | None) -> None:
    assert quant_tag(name) == tag


def test_sets_join_split_files_and_leave_helpers_out() -> None:
    sets = {one.tag: one for one in gguf_sets(GGUF)}
    assert set(sets) == {"IQ2_XS", "Q4_0", "Q4_K_M", "Q8_0", "F16"}
    assert sets["F16"].files == ("m-f16-00001-of-00002.gguf", "m-f16-00002-of-00002.gguf")
    assert sets["F16"].size == 160


@pytest.mark.parametrize(
    ("quant", "main"),
    [
        (None, "m-Q4_K_M.gguf"),
        ("q8_0", "m-Q8_0.gguf"),
        ("iq2_xs", "m-IQ2_XS.gguf"),
        ("F16", "m-f16-00001-of-00002.gguf"),
        ("fp16", "m-f16-00001-of-00002.gguf"),
        ("M-Q4_0.gguf", "m-Q4_0.gguf"),
    ],
)
def test_the_asked_or_the_preferred_quantization(quant: str | None, main: str) -> None:
    choice = choose(GGUF, "org/name", quant)
    assert choice.main == main
    assert "README.md" in choice.files
    assert len(choice.others) == 4


def test_all_parts_of_a_split_file_are_fetched() -> None:
    assert {name for name in choose(GGUF, "org/name", "f16").files if "f16" in name} == {
        "m-f16-00001-of-00002.gguf",
        "m-f16-00002-of-00002.gguf",
    }


@pytest.mark.parametrize(
    ("names", "main"),
    [
        ({"m-Q4_0.gguf": 4, "m-Q8_0.gguf": 8, "m-Q2_K.gguf": 2}, "m-Q4_0.gguf"),
        ({"m-Q4_K_L.gguf": 4, "m-Q8_0.gguf": 8, "m-Q2_K.gguf": 2}, "m-Q4_K_L.gguf"),
        ({"m-f16.gguf": 16, "m-Q8_0.gguf": 8}, "m-Q8_0.gguf"),
        ({"big.gguf": 16, "small.gguf": 8}, "small.gguf"),
    ],
)
def test_without_the_preferred_one(names: dict[str, int], main: str) -> None:
    assert choose(names, "org/name").main == main


def test_an_unknown_quantization_names_those_there_are() -> None:
    with pytest.raises(ModelNotFoundError, match=r"'q4_k_s'; it has F16, .*Q8_0; did you mean Q4_K_M"):
        choose(GGUF, "org/name", "q4_k_s")
    with pytest.raises(ModelNotFoundError, match="none at all"):
        choose({"config.json": 1, "model.safetensors": 2}, "org/name", "Q8_0")


def test_two_models_of_one_quantization_must_be_named() -> None:
    files = {"a-Q8_0.gguf": 1, "b-Q8_0.gguf": 2}
    for quant in (None, "Q8_0"):
        with pytest.raises(ModelNotFoundError, match=r"org/name:a-Q8_0\.gguf, org/name:b-Q8_0\.gguf"):
            choose(files, "org/name", quant)
    assert choose(files, "org/name", "b-Q8_0.gguf").main == "b-Q8_0.gguf"


def test_an_incomplete_split_is_no_choice() -> None:
    files = {"m-Q8_0-00001-of-00003.gguf": 1, "m-Q8_0-00003-of-00003.gguf": 1, "m-f16.gguf": 2}
    assert choose(files, "org/name").main == "m-f16.gguf"


def test_safetensors_with_all_that_reading_takes_and_nothing_else() -> None:
    wanted = {
        "README.md", "LICENSE", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "tokenizer.model", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja", "modules.json",
        "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
        "2_Dense/config.json", "2_Dense/model.safetensors", "model.safetensors.index.json",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    }  # fmt: skip
    unwanted = {
        "pytorch_model.bin", "consolidated.safetensors", "model.fp16.safetensors", "onnx/model.onnx", "tf_model.h5",
        "2_Dense/pytorch_model.bin", "onnx/config.json", ".gitattributes", "modeling_custom.py", "training_args.bin",
    }  # fmt: skip
    choice = choose(dict.fromkeys(wanted | unwanted, 1), "org/name")
    assert set(choice.files) == wanted
    assert choice.main == "."


def test_one_file_of_weights_is_preferred_to_copies_of_it() -> None:
    files = dict.fromkeys(("config.json", "model.safetensors", "model.fp16.safetensors", "consolidated.safetensors"), 1)
    assert choose(files, "org/name").files == ("config.json", "model.safetensors")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["config.json", "pytorch_model.bin"], r"only as pickles \(pytorch_model.bin\)"),
        (["config.json", "a.pt"], r"only as pickles \(a.pt\)"),
        (["model.safetensors"], "without a config.json"),
        (["README.md"], "no .gguf file and no safetensors"),
        (["mmproj-F16.gguf"], "no .gguf file"),
    ],
)
def test_repositories_that_hold_no_model(names: list[str], told: str) -> None:
    with pytest.raises(ModelNotFoundError, match=told):
        choose(dict.fromkeys(names, 1), "org/name")
