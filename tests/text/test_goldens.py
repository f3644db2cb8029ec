"""Token ids are llama.cpp's on its own test vectors. They stand in ../shared beside the checkout, or in $ORDITO_SHARED."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ordito.checkpoint.gguf import read_gguf
from ordito.text.tokenizer import Tokenizer

SHARED = Path(os.environ.get("ORDITO_SHARED", Path(__file__).parents[3] / "shared"))
GOLDENS = sorted((SHARED / "assets" / "tokenizer-goldens").glob("ggml-vocab-*.gguf"))


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_ids_are_those_of_llama_cpp(path):
    tokenizer = Tokenizer.from_gguf(read_gguf(path).metadata)
    texts = path.with_name(path.name + ".inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    rows = path.with_name(path.name + ".out").read_text().split("\n")
    assert len(texts) > 40
    for text, row in zip(texts, rows, strict=False):
        assert tokenizer.encode(text, add_special_tokens=False) == [int(id) for id in row.split()], repr(text)
