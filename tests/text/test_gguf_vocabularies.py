"""Vocabularies of GGUF files without published test vectors: unigram ones, and every named pre-tokenizer."""

from __future__ import annotations

import numpy as np
import pytest
import transformers
from model_files import BYTES, CHARSMAP, NASTY, PIECES, model_file
from tokenizers import Regex, pre_tokenizers

from ordito.errors import TokenizerError
from ordito.text.pretokenizers import PRE_TOKENIZERS
from ordito.text.tokenizer import Tokenizer


def unigram(pieces=PIECES, **changes):
    data = {
        "model": "t5",
        "tokens": [piece for piece, _, _ in pieces],
        "scores": [score for _, score, _ in pieces],
        "token_type": np.array([type for _, _, type in pieces], np.int32),
        "precompiled_charsmap": np.frombuffer(CHARSMAP, np.int8),
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (data | changes).items()}


@pytest.mark.parametrize("pieces", [PIECES, [*PIECES, *BYTES]], ids=["unknown", "bytes"])
def test_a_unigram_vocabulary_gives_the_ids_of_its_model_file(tmp_path, pieces):
    pieces = [(piece, score, 1 if type == 4 else type) for piece, score, type in pieces]
    (tmp_path / "tokenizer.model").write_bytes(model_file(pieces, charsmap=CHARSMAP))
    file, ours = Tokenizer.from_folder(tmp_path), Tokenizer.from_gguf(unigram(pieces))
    for text in NASTY:
        ids = file.encode(text, add_special_tokens=False)
        assert ours.encode(text) == [*ids, 2], repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == file.decode(ids, skip_special_tokens=False)


def test_a_saved_unigram_vocabulary_is_read_by_transformers(tmp_path):
    ours = Tokenizer.from_gguf(unigram())
    ours.to_folder(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ("the warp", "  the  warp ", "ﬁＡ…\tthe", "<sep>", "x<ctl>the", "日本the"):
        assert ours.encode(text, parse_special=True) == theirs(text)["input_ids"], repr(text)
    ids = ours.encode("the warp ﬁ")
    assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids) == "the warp fi"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precompiled_charsmap": [300]}, "no list of bytes"),
        ({"precompiled_charsmap": "abc"}, "no list of bytes"),
        ({"precompiled_charsmap": [1, 2, 3]}, "begins with a table"),
        ({"scores": [float("inf")] * len(PIECES)}, "finite"),
        ({"unknown_token_id": 10**6}, "unknown_token_id"),
    ],
)
def test_wrong_unigram_metadata_says_what_is_wrong(change, message):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(unigram(**change)).encode("a")


# What each way makes of a text; "·" stands between the words. From the patterns of the published tokenizer.json files.
TEXT = "I'Ll aB 12345 è日本!/x\r\n  y"
CUTS = {
    "gpt-2": "I·'·Ll· aB· 12345· è日本·!/·x·\r\n · y",
    "qwen2": "I·'Ll· aB· ·1·2·3·4·5· è日本·!/·x·\r\n· · y",
    "llama-bpe": "I·'Ll· aB· ·123·45· è日本·!/·x·\r\n· · y",
    "gpt-4o": "I'Ll· a·B· ·123·45· è日本·!/·x·\r\n· · y",
    "tekken": "I·'Ll· a·B· ·1·2·3·4·5· è日本·!/·x·\r\n· · y",
    "deepseek-v3": "I·'Ll· aB· ·123·45· è·日本·!/·x·\r\n· · y",
    "smollm": "I·'·Ll· aB· ·1·2·3·4·5· è日本·!/·x·\r\n · y",
}


@pytest.mark.parametrize("name", CUTS)
def test_words_are_cut_as_the_model_cuts_them(name):
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    words = [word for word, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(TEXT)]
    assert "·".join(words) == CUTS[name]


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_no_pre_tokenizer_loses_text(name):
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    for text in (*NASTY, TEXT):
        assert "".join(word for word, _ in pre_tokenizers.Sequence(splits).pre_tokenize_str(text)) == text
