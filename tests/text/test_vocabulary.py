"""Bytes of tokens, tokens that end answers, matching of added tokens, and hostile vocabularies."""

from __future__ import annotations

import math
import random

import pytest

from ordito.errors import TokenizerError
from ordito.text.matcher import Matcher
from ordito.text.sentencepiece import MergedPieces
from ordito.text.tokenizer import GUARD, Special, Tokenizer
from ordito.text.vocabulary import Vocabulary, ends

PIECES = ["<unk>", "<s>", "</s>", "<|im_end|>", *(f"<0x{byte:02X}>" for byte in range(256))]


def metadata(words, **changes):
    tokens = [*PIECES, *words]
    types = [2, 3, 3, 4, *[6] * 256, *[1] * len(words)]
    scores = [0.0] * len(PIECES) + [-float(i) for i in range(len(words))]
    data = {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores, "unknown_token_id": 0}
    return {f"tokenizer.ggml.{key}": value for key, value in (data | changes).items()}


def test_ends_of_answers():
    assert ends({"<|im_end|>", "<|im_start|>"}) == {"<|im_end|>"}
    assert ends({"<|end|>", "<|user|>"}) == {"<|end|>"}
    assert ends({"<|end|>", "<|return|>", "<|call|>"}) == {"<|return|>", "<|call|>"}


def test_an_end_that_users_may_write_is_made_a_control_token():
    tokenizer = Tokenizer.from_gguf(metadata(["a", "b"]))
    assert tokenizer.id_of("<|im_end|>") in tokenizer.end_ids & tokenizer.special_ids
    assert 3 not in tokenizer.encode("a<|im_end|>b")
    assert 3 in tokenizer.encode("a<|im_end|>b", parse_special=True)


def test_what_only_looks_like_a_byte_is_text():
    vocabulary = Vocabulary("sentencepiece", ["<0x41>", "<0xZZ>", "<0x+1>", "<0x 1>"])
    assert [vocabulary.bytes_of(id) for id in range(4)] == [b"A", b"<0xZZ>", b"<0x+1>", b"<0x 1>"]


@pytest.mark.parametrize("score", [math.nan, math.inf, "1", None])
def test_scores_are_numbers(score):
    with pytest.raises(TokenizerError, match="scores"):
        Tokenizer.from_gguf(metadata(["a"], scores=[0.0] * len(PIECES) + [score]))


def test_a_token_of_a_million_characters_is_refused():
    with pytest.raises(TokenizerError, match="1,000,000 characters"):
        Tokenizer.from_gguf(metadata(["a" * 1_000_000]))


def test_no_text_merges_into_a_control_token():
    tokenizer = Tokenizer.from_gguf(metadata(["<", "s", ">", "<s", "s>", "/", "</", "</s"]))
    for text in ("<s>", "</s>", "a<s></s>"):
        assert not set(tokenizer.encode(text, add_special_tokens=False)) & tokenizer.special_ids


@pytest.mark.parametrize("seed", range(20))
def test_words_are_merged_independently_of_each_other(seed):
    """Cutting at spaces changes no id, whatever the pieces: against merging all of the text at once."""
    choose = random.Random(seed)
    alphabet = ["a", "b", ">", "▁", "é"]
    pieces = {letter: id for id, letter in enumerate(alphabet)}
    for _ in range(40):
        piece = "".join(choose.choices(alphabet, k=choose.randint(2, 4)))
        if "▁" not in piece[1:] or choose.random() < 0.1:
            pieces.setdefault(piece, len(pieces))
    engine = MergedPieces(pieces, [float(choose.randint(-9, 0)) for _ in pieces], None)
    for _ in range(50):
        text = "".join(choose.choices(alphabet, k=choose.randint(0, 40)))
        assert engine.encode(text) == [id for piece in engine.segment(text) for id in engine._ids(piece)], text


def test_bert_writes_no_space_before_a_full_stop():
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁hi", "▁,", "▁.", "▁you", "ng"]
    fields = {"model": "bert", "tokens": tokens, "token_type": [3, 3, 3, 3, 1, 1, 1, 1, 1], "unknown_token_id": 1}
    roles = {"cls_token_id": 2, "seperator_token_id": 3}
    tokenizer = Tokenizer.from_gguf({f"tokenizer.ggml.{key}": value for key, value in (fields | roles).items()})
    assert tokenizer.decode(tokenizer.encode("Hi, young.")) == "hi, young."


def test_guarded_text_holds_no_control_token_even_where_they_overlap():
    tokens = ["<s>", "s><s", "<s><s>", "aa", "x"]
    vocabulary = Vocabulary("sentencepiece", tokens, frozenset(range(4)), frozenset(range(4)))
    nothing = {"write": lambda folder, tokenizer: None, "engine": None}
    tokenizer = Tokenizer(vocabulary, lambda text, parse_special: [], Special(), **nothing)
    for text in ("<s><s>x<s", "aaaa", "<s", "", "x<s>"):
        guarded = tokenizer.guarded(text)
        assert guarded.replace(GUARD, "") == text
        assert not any(token in guarded for token in tokens[:4])
    assert tokenizer.guarded("plain < text") == "plain < text"


def test_the_longest_of_the_leftmost_tokens_is_matched():
    vocabulary = Vocabulary("sentencepiece", ["<a", "<a>", "<a><b>", "b>"], added=frozenset(range(4)))
    matcher = Matcher(vocabulary.ids)
    assert matcher.split("x<a><b><a><a y") == ["x", 2, 1, 0, " y"]
    assert matcher.split("") == []
    assert matcher.split("b") == ["b"]
