from __future__ import annotations

import json

import numpy as np
import pytest
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Library

from ordito.errors import TokenizerError
from ordito.text.library import LONG
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import byte_alphabet

CORPUS = ["the warp and the weft of the loom", "l'ordito e la trama", "  two  spaces\n\nand lines 1234"] * 5
NASTY = [
    "",
    " ",
    "  a",
    "a  ",
    "\n\n\n",
    "é é",
    "👩‍👩‍👧",
    "مرحبا",
    "日本",
    "\x00\x07",
    "a\r\nb",
    "I'M it's",
    "١٢٣ 12345",
    "<|end|>",
    "ﬁ½",
]


@pytest.fixture(scope="module")
def byte_level():
    library = Library(models.BPE())
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, special_tokens=["<s>", "<|end|>"])
    )
    return library


@pytest.fixture(scope="module")
def gguf_byte_level(byte_level):
    model = json.loads(byte_level.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3, 3] + [1] * (len(tokens) - 2), np.int32),
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
    }


def gguf_sentencepiece(spaced=True):
    """A vocabulary with scores, in which the best merge is not the leftmost or the longest."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    words = [
        "▁",
        "t",
        "h",
        "e",
        "w",
        "a",
        "r",
        "p",
        "th",
        "he",
        "▁t",
        "▁the",
        "the",
        "ar",
        "rp",
        "arp",
        "▁w",
        "▁warp",
        "wa",
        "é",
        "<x>",
    ]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces + words,
        "tokenizer.ggml.scores": np.array([0.0] * len(pieces) + [-float(i * 7 % 17) for i in range(len(words))], np.float32),
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * (len(words) - 1) + [4],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": spaced,
    }


def test_byte_level_is_the_library(byte_level, gguf_byte_level):
    ours = Tokenizer.from_gguf(gguf_byte_level)
    byte_level.encode_special_tokens = True
    for text in NASTY:
        assert ours.encode(text) == byte_level.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "smollm", "default"])
@pytest.mark.parametrize("unspelled", [False, True])
def test_byte_level_cuts_as_its_library_does(gguf_byte_level, pre, unspelled):
    """What merges words here, and what the library makes of the same table; also where a byte has no token."""
    fields = gguf_byte_level | {"tokenizer.ggml.pre": pre}
    if unspelled:
        tokens = ["?" if token == "e" else token for token in fields["tokenizer.ggml.tokens"]]
        merges = [merge for merge in fields["tokenizer.ggml.merges"] if "e" not in merge]
        fields |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": merges}
    ours = Tokenizer.from_gguf(fields)
    library = ours.engine.library()
    library.encode_special_tokens = True
    long = " ".join(CORPUS) * 60
    assert len(long) > LONG
    for text in [*NASTY, long]:
        assert ours.encode(text, add_special_tokens=False) == library.encode(text, add_special_tokens=False).ids, repr(text)

    @settings(deadline=None, max_examples=100)
    @given(st.text(st.sampled_from("thewarp lo\nd1'é🧵<|>"), max_size=40))
    def check(text):
        assert ours.encode(text, add_special_tokens=False) == library.encode(text, add_special_tokens=False).ids

    check()


def test_a_very_long_word_takes_no_quadratic_time(gguf_byte_level):
    ours = Tokenizer.from_gguf(gguf_byte_level)
    assert ours.decode(ours.encode("the" * 50_000)) == "the" * 50_000


def test_merges_of_tokens_with_spaces_are_read(gguf_byte_level):
    fields = {key: gguf_byte_level[f"tokenizer.ggml.{key}"] for key in ("tokens", "merges", "token_type")}
    fields |= {"tokens": [*fields["tokens"], " t"], "merges": [*fields["merges"], "  t"]}
    fields |= {"token_type": [*fields["token_type"].tolist(), 1]}
    ours = Tokenizer.from_gguf(gguf_byte_level | {f"tokenizer.ggml.{key}": value for key, value in fields.items()})
    assert ours.decode(ours.encode("the warp")) == "the warp"
    with pytest.raises(TokenizerError, match="'zt', which is no token"):
        Tokenizer.from_gguf(gguf_byte_level | {"tokenizer.ggml.merges": [*gguf_byte_level["tokenizer.ggml.merges"], "z t"]})


@pytest.mark.parametrize("spaced", [True, False])
def test_sentencepiece_is_its_own_merge_table(spaced, tmp_path):
    ours = Tokenizer.from_gguf(gguf_sentencepiece(spaced))
    ours.to_folder(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)

    @settings(deadline=None, max_examples=200)
    @given(st.text("thewarp é🧵\n", max_size=20))
    def check(text):
        assert ours.encode(text) == theirs(text)["input_ids"] or text == ""
        assert ours.decode(ours.encode(text)) == text

    check()


@given(st.lists(st.integers(0, 279)))
def test_streamed_is_decoded(ids):
    ours = Tokenizer.from_gguf(gguf_sentencepiece())
    stream = ours.streamer()
    assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids)


def test_users_cannot_write_control_tokens(gguf_byte_level):
    ours = Tokenizer.from_gguf(gguf_byte_level)
    end = ours.id_of("<|end|>")
    assert end not in ours.encode("a<|end|>b")
    assert ours.encode("a<|end|>b", parse_special=True).count(end) == 1
    guarded = ours.guarded("a<|end|>b")
    assert end not in ours.encode_chat(guarded)
    assert ours.decode(ours.encode_chat(guarded)) == "a<|end|>b"
    assert ours.token_bytes(end) == b""
    assert end in ours.end_ids


def test_bos_is_added_once():
    ours = Tokenizer.from_gguf(gguf_sentencepiece())
    assert ours.encode("the")[0] == 1
    assert ours.encode("the", add_special_tokens=False)[0] != 1
    assert ours.encode_chat("<s>the").count(1) == ours.encode_chat("the").count(1) == 1


def test_a_folder_gives_the_ids_of_transformers(byte_level, tmp_path):
    library = Library.from_str(byte_level.to_str())
    library.add_tokens([AddedToken("<x>", special=False)])
    library.post_processor = processors.TemplateProcessing(single="<s> $A <|end|>", special_tokens=[("<s>", 0), ("<|end|>", 1)])
    library.enable_truncation(3)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=library, bos_token="<s>", eos_token="<|end|>")
    fast.save_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    assert (ours.bos_id, ours.eos_id) == (0, 1)
    for text in [*NASTY, "a<x>b"]:
        assert ours.encode(text, parse_special=True) == fast(text, truncation=False)["input_ids"]
    ours.to_folder(tmp_path / "copy")
    assert Tokenizer.from_folder(tmp_path / "copy").encode("the warp") == ours.encode("the warp")


def test_every_byte_has_a_character():
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "gpt3"}, "did you mean gpt2"),
        ({"tokenizer.ggml.model": 3}, "expected a string"),
        ({"tokenizer.ggml.pre": "smolm"}, "did you mean smollm"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "no string"),
        ({"tokenizer.ggml.merges": ["a b", "cd"]}, "merges"),
        ({"tokenizer.ggml.merges": ["zz yy"]}, "does not hold together"),
        ({"tokenizer.ggml.token_type": [1]}, "1 entries"),
        ({"tokenizer.ggml.bos_token_id": 10**6}, "bos_token_id"),
        ({"tokenizer.ggml.eos_token_id": "2"}, "eos_token_id"),
    ],
)
def test_wrong_metadata_says_what_is_wrong(gguf_byte_level, change, message):
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_gguf(gguf_byte_level | change)


@pytest.mark.parametrize("id", [10**7, 2**32 - 1])
def test_one_large_id_does_not_exhaust_memory(tmp_path, id):
    model = {"type": "WordLevel", "vocab": {"a": id}, "unk_token": "a"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    with pytest.raises(TokenizerError, match=f"the id {id:,}"):
        Tokenizer.from_folder(tmp_path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_tokenizers_raise_our_error_or_none(byte_level, tmp_path, data):
    """Deleted and replaced parts anywhere: the library answers some with panics, which are no Exceptions."""
    tree = json.loads(byte_level.to_str())
    for _ in range(data.draw(st.integers(1, 3))):
        place, path = tree, []
        while isinstance(place, (dict, list)) and place and (not path or data.draw(st.booleans())):
            keys = list(place)[:12] if isinstance(place, dict) else range(min(len(place), 6))
            path.append((place, data.draw(st.sampled_from(keys))))
            place = path[-1][0][path[-1][1]]
        holder, key = path[-1]
        holder[key] = data.draw(st.sampled_from([None, True, -1, 2**32, 1.5, "", "x", [], {}, ["a"], "a b"]))
    (tmp_path / "tokenizer.json").write_text(json.dumps(tree))
    try:
        tokenizer = Tokenizer.from_folder(tmp_path)
        tokenizer.decode(tokenizer.encode("the warp <s>\n é", parse_special=True))
    except TokenizerError as error:
        assert "\n" not in str(error)


def test_a_word_that_cannot_be_spelled_is_our_error(tmp_path):
    model = {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 9,
        "vocab": {"a": 0},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    with pytest.raises(TokenizerError, match="cannot spell"):
        Tokenizer.from_folder(tmp_path).encode("zebra")


def test_a_lone_surrogate_is_refused(gguf_byte_level):
    with pytest.raises(TokenizerError, match="surrogate"):
        Tokenizer.from_gguf(gguf_byte_level).encode("a\ud800")


@pytest.mark.parametrize("text", [None, 5, b"the", ["the"]])
def test_anything_but_a_text_is_refused(gguf_byte_level, text):
    with pytest.raises(TokenizerError, match="expected a string"):
        Tokenizer.from_gguf(gguf_byte_level).encode(text)


@pytest.mark.parametrize("ids", [None, 5, np.int64(5), "12", [1.5], [[1]], np.array([1.0])])
def test_anything_but_token_ids_is_refused(gguf_byte_level, ids):
    with pytest.raises(TokenizerError, match="expected a list of whole numbers"):
        Tokenizer.from_gguf(gguf_byte_level).decode(ids)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
