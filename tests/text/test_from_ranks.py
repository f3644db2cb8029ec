"""Rank files and tekken.json: ids are tiktoken's."""

from __future__ import annotations

import base64
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.errors import TokenizerError
from ordito.text import from_ranks
from ordito.text.from_ranks import PUBLISHED, Published
from ordito.text.pretokenizers import LLAMA3, TEKKEN, PreTokenizer
from ordito.text.tokenizer import Tokenizer

TOKENS = [bytes([byte]) for byte in range(256)] + [
    *(b"th", b"he", b" t", b"the", b" the", b"aa", b"aaa", b"aaaa", b"ar", b"rp", b"warp", b"\xe6\x97", b"\xe6\x97\xa5", b"11"),
    b"unreached",
]


def rank_file(tokens=TOKENS) -> str:
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))


def tekken(**changes):
    vocab = [{"rank": i, "token_bytes": base64.b64encode(token).decode()} for i, token in enumerate(TOKENS)]
    config = {"pattern": TEKKEN, "default_vocab_size": 30 + 268, "default_num_special_tokens": 30}
    return {"config": config | changes.pop("config", {}), "vocab": vocab} | changes


def read(folder, name, text) -> Tokenizer:
    (folder / name).write_text(text)
    return Tokenizer.from_folder(folder)


@pytest.fixture
def ranked(tmp_path, monkeypatch):
    known = Published(PreTokenizer((LLAMA3,), ignore_merges=True), ["<|bos|>", "<|eos|>"], {"bos": "<|bos|>", "eos": "<|eos|>"})
    monkeypatch.setitem(PUBLISHED, len(TOKENS), known)
    return read(tmp_path, "tokenizer.model", rank_file())


def merged_by_rank(word: bytes) -> list[int]:
    """tiktoken's rule, word for word: the neighbours whose union has the lowest rank, the leftmost first."""
    ranks = {token: rank for rank, token in enumerate(TOKENS)}
    parts = [word] if word in ranks else [bytes([byte]) for byte in word]
    while True:
        unions = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not unions:
            return [ranks[part] for part in parts]
        _, i = min(unions)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_a_word_is_merged_by_rank(ranked):
    @settings(deadline=None, max_examples=300)
    @given(st.text("thewarp日unchd", min_size=1, max_size=12))
    def check(word):
        assert ranked.encode(word, add_special_tokens=False) == merged_by_rank(word.encode())

    check()
    assert ranked.encode("unreached") == [len(TOKENS), TOKENS.index(b"unreached")]


def test_ids_are_those_of_tiktoken(ranked):
    encoding = pytest.importorskip("tiktoken").Encoding(
        "made",
        pat_str=LLAMA3,
        mergeable_ranks={token: i for i, token in enumerate(TOKENS)},
        special_tokens={"<|bos|>": 271, "<|eos|>": 272},
    )

    @settings(deadline=None, max_examples=300)
    @given(st.text(max_size=20))
    def check(text):
        ids = ranked.encode(text, add_special_tokens=False)
        assert ids == encoding.encode(text, disallowed_special=())
        assert ranked.decode(ids) == text

    check()
    assert ranked.encode("the<|eos|>", parse_special=True) == [271, *encoding.encode("the<|eos|>", allowed_special="all")]


def test_a_saved_one_is_the_same(ranked, tmp_path):
    ranked.to_folder(tmp_path / "saved")
    again = Tokenizer.from_folder(tmp_path / "saved")
    assert again.special == ranked.special
    for text in ("the warp 日本 11", "aaaaa<|eos|>", "unreached"):
        assert again.encode(text, parse_special=True) == ranked.encode(text, parse_special=True)


def test_published_control_tokens_are_as_many_as_published():
    assert {ranks: len(known.control) for ranks, known in PUBLISHED.items()} == {128_000: 256, 151_643: 208, 200_000: 2_048}
    for known in PUBLISHED.values():
        assert len(set(known.control)) == len(known.control)
        assert set(known.roles.values()) <= set(known.control)
    assert from_ranks._LLAMA4[200_080 - 200_000] == "<|image_start|>"
    assert from_ranks._LLAMA4[201_142 - 200_000 : 201_145 - 200_000] == [
        "<|reasoning_thinking_start|>",
        "<|reasoning_thinking_end|>",
        "<|reserved_special_token_0|>",
    ]


def test_tekken_counts_from_its_control_tokens(tmp_path):
    ours = read(tmp_path, "tekken.json", json.dumps(tekken()))
    assert ours.vocab_size == 298
    assert [ours.token(id) for id in (0, 1, 3, 10, 29)] == ["<unk>", "<s>", "[INST]", "[IMG]", "<SPECIAL_29>"]
    assert ours.encode("the") == [1, 30 + TOKENS.index(b"the")]
    assert ours.id_of("warp") == 30 + TOKENS.index(b"warp")
    assert ours.id_of("unreached") is None, "ranks beyond the vocabulary are left out"
    named = [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}, {"rank": 2, "token_str": "[THINK]"}]
    ours = read(tmp_path, "tekken.json", json.dumps(tekken(special_tokens=named)))
    assert ours.encode("[THINK]the", parse_special=True)[:2] == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 ranks"),
        (rank_file(TOKENS[:100]), "100 ranks"),
        (rank_file() + "!!! 271\n", "in base64"),
        (rank_file() + "YQ== 99999999\n", "line 272"),
        (rank_file() + "YQ==\n", "line 272"),
        (rank_file([*TOKENS[1:], b"more"]), "byte 0 has no token"),
        (rank_file(TOKENS[:-1]) + "eHh4 5\n", "same id"),
        (rank_file(TOKENS[:-1]) + base64.b64encode(b"a" * 2_000).decode() + " 270\n", "2,000 bytes"),
    ],
)
def test_damaged_rank_files_say_what_is_wrong(tmp_path, ranked, text, message):
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path, "qwen.tiktoken", text) if (tmp_path / "tokenizer.model").unlink() is None else None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"pattern": None}}, "pattern"),
        ({"config": {"pattern": "("}}, "pattern"),
        ({"config": {"default_vocab_size": -1}}, "default_vocab_size"),
        ({"config": {"default_num_special_tokens": 10**9}}, "default_num_special_tokens"),
        ({"config": {"default_num_special_tokens": 3}}, "special token has the rank"),
        ({"vocab": {}}, "list of tokens"),
        ({"vocab": [{"rank": "0", "token_bytes": "AA=="}]}, "rank and token_bytes"),
        ({"special_tokens": [3]}, "rank and token_str"),
    ],
)
def test_damaged_tekken_files_say_what_is_wrong(tmp_path, change, message):
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path, "tekken.json", json.dumps(tekken(**change)))
