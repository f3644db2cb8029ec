"""The memory of a vocabulary, by its kind and size."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ordito.checkpoint.outline import Outline
from ordito.families import spec_from_config
from ordito.fitting import VocabularySize, vocabulary_size
from ordito.fitting.vocabularies import assumed

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 24}
SPEC = spec_from_config({"model_type": "llama", "vocab_size": 96, "max_position_embeddings": 64} | SIZES)
KNOWN = Outline(name="tiny", origin="here", format="gguf", spec=SPEC, metadata={})


def gguf(model, **more):
    return {"tokenizer.ggml.model": model, "tokenizer.ggml.tokens": ["a", "b", "ab"]} | more


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        (gguf("gpt2", **{"tokenizer.ggml.merges": ["a b"]}), VocabularySize(kind="merges", tokens=3, merges=1)),
        (gguf("llama", **{"tokenizer.ggml.merges": ["a b"]}), VocabularySize(kind="pieces", tokens=3, merges=0)),
        (gguf("bert"), VocabularySize(kind="words", tokens=3, merges=0)),
        ({}, VocabularySize(kind="merges", tokens=96, merges=96, source="json")),
        (gguf("of tomorrow"), VocabularySize(kind="merges", tokens=96, merges=96, source="json")),
    ],
)
def test_a_header_says_what_its_vocabulary_is(metadata, expected):
    assert vocabulary_size(replace(KNOWN, metadata=metadata)) == expected


@pytest.mark.parametrize(("model", "kind", "merges"), [({"merges": [["a", "b"]] * 7}, "merges", 7), ({}, "words", 0)])
def test_a_folder_says_it_in_its_tokenizer(model, kind, merges, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    expected = VocabularySize(kind=kind, tokens=96, merges=merges, source="json")
    assert vocabulary_size(replace(KNOWN, path=tmp_path)) == expected
    assert vocabulary_size(replace(KNOWN, path=tmp_path / "nowhere")) == assumed(96)


def test_merges_take_memory_and_more_while_they_are_read():
    few, many = (VocabularySize(kind="merges", tokens=1000, merges=merges) for merges in (1000, 2000))
    assert many.held > few.held
    assert many.read == 2 * few.read
    assert replace(few, source="json").read > few.read
    assert replace(few, source="json").held > few.held
    assert VocabularySize(kind="pieces", tokens=1000, merges=0).held < few.held
