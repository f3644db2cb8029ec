"""Models of every family as GGUF files of ours: the same spec, the same logits, the same in llama.cpp."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_laws_of_cases import header_of
from tiny import CASES, error, saved

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.convert import Weights, to_gguf
from ordito.errors import OrditoWarning

TOKENIZER = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.merges": ["a a"]}


EXPRESSED = [name for name in CASES if header_of(name) is not None]
"""The others have settings that GGUF has no words for, which are refused."""


def test_gguf_has_words_for_every_family():
    families = {CASES[name][1] for name in EXPRESSED}
    assert {"LlamaConfig", "Gemma2Config", "MixtralConfig", "DeepseekV3Config", "GptOssConfig", "Qwen3MoeConfig"} <= families
    assert {"GPT2Config", "PhiConfig", "Phi3Config", "BertConfig", "T5Config", "Llama4TextConfig"} <= families


@pytest.mark.parametrize("name", EXPRESSED)
@pytest.mark.filterwarnings("ignore:.*llama.cpp will (compute other numbers|refuse)")
def test_what_gguf_knows_comes_back(name, tmp_path):
    saved(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    to_gguf(tmp_path / "x.gguf", checkpoint.spec, Weights(checkpoint), TOKENIZER, name="x", dtype="f32")
    back = open_checkpoint(tmp_path / "x.gguf")
    plain = dataclasses.replace(checkpoint.spec, ahead=(), pooler=None, pooling=None)
    assert back.spec.tensors().keys() == plain.tensors().keys()
    # Without it llama.cpp refuses a file that has no vocabulary.
    assert back.metadata[f"{back.metadata['general.architecture']}.vocab_size"] == plain.vocab_size
    for tensor, array in back:
        assert error(torch.from_numpy(array.copy()), torch.from_numpy(checkpoint.read(tensor).copy())) <= 1e-6


def test_a_scale_that_llama_cpp_does_not_read_is_told(tmp_path):
    saved("gemma3", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    with pytest.warns(
        OrditoWarning,
        match=r"x\.gguf: llama\.cpp will compute other numbers.*query_pre_attn_scalar is 0\.223607; Ordito reads it right",
    ):
        to_gguf(tmp_path / "x.gguf", checkpoint.spec, Weights(checkpoint), TOKENIZER, name="x", dtype="f32")
