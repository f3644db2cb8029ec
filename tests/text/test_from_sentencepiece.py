"""SentencePiece's model files: ids are those of the sentencepiece library, and damaged files raise our error."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_files import BYTES, CHARSMAP, NASTY, PIECES, SPECIAL, WORDS, model_file

from ordito.errors import TokenizerError
from ordito.text.from_sentencepiece import parse
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Vocabulary

MODELS = {
    "unigram": {},
    "unigram-map": {"charsmap": CHARSMAP},
    "unigram-bytes": {"pieces": [*PIECES, *BYTES], "byte_fallback": True, "charsmap": CHARSMAP},
    "unigram-plain": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "bpe": {"model_type": 2},
    "bpe-bytes": {
        "pieces": [*SPECIAL, *BYTES, *PIECES[5:]],
        "model_type": 2,
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
    },
    "bpe-map": {"model_type": 2, "charsmap": CHARSMAP, "add_dummy_prefix": False},
}


def made(name) -> bytes:
    return model_file(**{"pieces": PIECES} | MODELS[name])


def read(tmp_path, data, name="tokenizer.model", **config) -> Tokenizer:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(tmp_path)


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_the_library(name, tmp_path):
    library = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=made(name))
    ours = read(tmp_path, made(name))

    @settings(deadline=None, max_examples=300)
    @given(st.text("thewarp  éＡﬁ…▁<s>\x07\t\n🧵e\u0301", max_size=20))
    def check(text):
        assert ours.encode(text, add_special_tokens=False) == library.encode(text), repr(text)

    check()
    for text in NASTY:
        assert ours.encode(text, add_special_tokens=False) == library.encode(text), repr(text)


def test_ids_without_the_library(tmp_path):
    """What sentencepiece 0.2.3 gave."""
    gold = [
        ("unigram-map", "the warp", [16, 22]),
        ("unigram-map", "ﬁé…  the", [5, 26, 27, 30, 16]),
        ("unigram-map", "<sep>日本 <s>\t", [5, 4, 0, 5, 31, 34, 32]),
        ("bpe-bytes", "the warp", [272, 278]),
        ("bpe-bytes", "ﬁé…  the", [261, 244, 177, 134, 264, 209, 134, 231, 133, 171, 261, 272]),
        ("bpe-bytes", "<sep>日本 <s>\t", [261, 4, 235, 156, 170, 235, 161, 177, 261, 287, 290, 288, 14]),
    ]
    for name, text, ids in gold:
        assert read(tmp_path, made(name)).encode(text, add_special_tokens=False) == ids, (name, text)


def test_a_map_replaces_the_longest_key_and_spares_user_defined_pieces(tmp_path):
    pieces = [*PIECES, ("Ａ", 0.0, 4)]
    ours = read(tmp_path, model_file(pieces, charsmap=CHARSMAP))
    assert ours.token(ours.encode("Ａ", add_special_tokens=False)[-1]) == "Ａ"
    plain = read(tmp_path, model_file(PIECES, charsmap=CHARSMAP))
    assert plain.decode(plain.encode("Ａ ﬁ e\u0301 \x07…")) == "A fi é ..."


def test_llama_adds_bos_and_reads_control_tokens_only_from_templates(tmp_path):
    ours = read(tmp_path, made("bpe"))
    assert ours.encode("the")[0] == ours.bos_id == 1
    assert not ours.special_ids & set(ours.encode("the</s>", add_special_tokens=False)) - {ours.unk_id}
    assert ours.encode("the</s>", parse_special=True)[-1] == ours.eos_id == 2
    assert ours.decode(ours.encode("the warp")) == "the warp"


def test_every_text_between_control_tokens_has_a_mark_unless_legacy_is_off(tmp_path):
    space = WORDS.index("▁the") + len(SPECIAL)
    again = read(tmp_path, made("bpe")).encode("the</s>the", parse_special=True)
    assert again.count(space) == 2
    once = read(tmp_path, made("bpe"), legacy=False).encode("the</s>the", parse_special=True)
    assert once.count(space) == 1


def test_t5_has_sentinels_and_ends_in_eos(tmp_path):
    ours = read(tmp_path, made("unigram"), "spiece.model", extra_ids=3)
    assert [ours.token(len(PIECES) + i) for i in range(3)] == ["<extra_id_2>", "<extra_id_1>", "<extra_id_0>"]
    ids = ours.encode("the<extra_id_0>", parse_special=True)
    assert ids[-2:] == [len(PIECES) + 2, ours.eos_id]
    assert ours.special.prefix == ()


def test_xlm_roberta_numbers_pieces_as_fairseq_does(tmp_path):
    ours, plain = (read(tmp_path, made("unigram"), name) for name in ("sentencepiece.bpe.model", "tokenizer.model"))
    plain = read(tmp_path / "..", made("unigram"))
    ids = plain.encode("the warp 日", add_special_tokens=False)
    assert ours.encode("the warp 日") == [0, *(3 if id == 0 else id + 1 for id in ids), 2]
    assert [ours.token(id) for id in (0, 1, 2, 3, ours.vocab_size - 1)] == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def test_added_tokens_of_the_settings_take_their_ids_and_the_space_behind_them(tmp_path):
    added = {str(len(PIECES) + 1): {"content": "<|end|>", "special": True, "rstrip": True}}
    ours = read(tmp_path, made("bpe"), added_tokens_decoder=added)
    end = len(PIECES) + 1
    assert ours.vocab_size == end + 1
    the = ours.encode("the", add_special_tokens=False)
    assert ours.encode("<|end|>\n the", add_special_tokens=False, parse_special=True) == [end, *the]
    assert end in ours.end_ids
    assert end not in ours.encode("<|end|>")


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.model.v3"])
def test_a_copy_is_the_same_tokenizer(tmp_path, name):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    ours = read(source, made("bpe-bytes"), name)
    ours.to_folder(target)
    again = Tokenizer.from_folder(target)
    assert all(again.encode(text) == ours.encode(text) for text in NASTY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no pieces"),
        (b"\x0a\xff\xff\xff\xff\x0f", "breaks off"),
        (b"\xff" * 11, "does not end"),
        (b"\x0b", "wire type 3"),
        (b"\x08\x01", "number where a message"),
        (model_file(PIECES, model_type=3), "model_type is 3"),
        (model_file([("", 0.0, 1)]), "piece 0 has 0 characters"),
        (model_file([("a" * 20_000, 0.0, 1)]), "20,000 characters"),
        (model_file([("a", float("nan"), 1)]), "finite"),
        (model_file(PIECES, charsmap=b"\xff\xff\xff\x7f"), "table of"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, data, message):
    with pytest.raises(TokenizerError, match=message):
        read(tmp_path, data).encode("a")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_bytes_raise_our_error_or_none(data):
    file = bytearray(model_file(PIECES[:12], charsmap=CHARSMAP))
    for _ in range(data.draw(st.integers(1, 4))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        scored, _ = parse(bytes(file), "file")
        engine = scored.engine(Vocabulary("sentencepiece", scored.pieces))
        if scored.normalization.charsmap is not None:
            engine.encode(scored.normalization.charsmap.replace("ﬁ e\u0301 Ａ…\t the"))
    except TokenizerError as error:
        assert "\n" not in str(error)
