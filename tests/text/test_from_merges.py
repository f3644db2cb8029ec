"""vocab.json with merges.txt, and vocab.txt: ids are those of transformers."""

from __future__ import annotations

import json

import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import models, normalizers, pre_tokenizers, trainers

from ordito.errors import TokenizerError
from ordito.text.tokenizer import Tokenizer

CORPUS = ["the warp and the weft of the loom .", "l'ordito e la trama, così è!", "  two  spaces\n\nand lines 1234"] * 5
NASTY = [
    *(
        "",
        " ",
        "  a",
        "a  ",
        "\n\n\n",
        "e\u0301 é",
        "👩‍👩‍👧",
        "مرحبا",
        "日本",
        "\x00\x07",
        "a\r\nb",
        "I'M it's",
        "١٢٣ 12345",
        "ﬁ½",
    ),
    *("The WARP, the weft.", "warp" * 50, "<unk>", "a<|endoftext|>b", "[SEP] [MASK]a", "\t tab"),
]
BYTE_LEVEL = {"GPT2Tokenizer": {}, "CodeGenTokenizer": {}, "Qwen2Tokenizer": {}, "RobertaTokenizer": {"add_prefix_space": True}}


def trained(tokenizer_class):
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"]
    if tokenizer_class == "OpenAIGPTTokenizer":
        library = Library(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        library.normalizer, library.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False)
    else:
        library = Library(models.BPE())
        library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(CORPUS, trainer)
    return json.loads(library.to_str())["model"]


def folder(path, tokenizer_class, **config):
    model = trained(tokenizer_class)
    (path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": tokenizer_class, **config}))
    return path


@pytest.mark.parametrize(("tokenizer_class", "config"), [*BYTE_LEVEL.items(), ("OpenAIGPTTokenizer", {})])
def test_ids_and_texts_are_those_of_transformers(tmp_path, tokenizer_class, config):
    ours = Tokenizer.from_folder(folder(tmp_path, tokenizer_class, **config))
    theirs = getattr(transformers, tokenizer_class).from_pretrained(tmp_path)
    for text in NASTY:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, parse_special=True) == ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False), repr(text)
    for role in ("bos", "eos", "pad", "unk"):
        if role != "unk" or ours.unk_id is not None:
            assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_token_id"), role
    ours.to_folder(tmp_path / "copy")
    again = Tokenizer.from_folder(tmp_path / "copy")
    assert all(again.encode(text) == ours.encode(text) for text in NASTY)


def test_gpt_1_streams_what_it_decodes(tmp_path):
    ours = Tokenizer.from_folder(folder(tmp_path, "OpenAIGPTTokenizer"))
    ids = ours.encode("The warp and the weft.")
    stream = ours.streamer()
    assert "".join(map(stream.push, ids)) + stream.flush() == ours.decode(ids) == "the warp and the weft ."


def test_an_old_folder_says_in_its_config_what_it_is(tmp_path):
    named, unnamed = tmp_path / "named", tmp_path / "unnamed"
    for path in (named, unnamed):
        path.mkdir()
    ours = Tokenizer.from_folder(folder(named, "GPT2Tokenizer"))
    folder(unnamed, "GPT2Tokenizer")
    (unnamed / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    with pytest.raises(TokenizerError, match="expected one of CodeGenTokenizer, GPT2Tokenizer"):
        Tokenizer.from_folder(unnamed)
    (unnamed / "config.json").write_text('{"model_type": "gpt2"}')
    assert Tokenizer.from_folder(unnamed).encode("the warp") == ours.encode("the warp")


def test_added_tokens_have_their_ids(tmp_path):
    path = folder(tmp_path, "CodeGenTokenizer")
    first = Tokenizer.from_folder(path).vocab_size
    (path / "added_tokens.json").write_text(json.dumps({"   ": first + 1, "  ": first}))
    ours, theirs = Tokenizer.from_folder(path), transformers.CodeGenTokenizer.from_pretrained(path)
    text = "a   b  c"
    assert ours.encode(text) == theirs(text)["input_ids"]
    assert {first, first + 1} < set(ours.encode(text))
    assert ours.vocab_size == first + 2
    assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "{", "JSON"),
        ("vocab.json", '{"a": 1e9}', "id 1000000000.0"),
        ("vocab.json", '{"a": 4194304}', "id 4,194,304"),
        ("vocab.json", '{"a": true}', "id True"),
        ("merges.txt", "a b c\n", "line 1"),
        ("merges.txt", "zz yy\n", "hold together"),
        ("merges.txt", "\udcff", "UTF-8"),
        ("added_tokens.json", '{"x": 99999999}', "99,999,999"),
        ("tokenizer_config.json", '{"tokenizer_class": "Qwen2Tokeniser"}', "did you mean Qwen2Tokenizer"),
    ],
)
def test_damaged_files_say_what_is_wrong(tmp_path, name, text, message):
    path = folder(tmp_path, "GPT2Tokenizer")
    (path / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_folder(path)


def test_a_missing_merges_file_is_named(tmp_path):
    (folder(tmp_path, "GPT2Tokenizer") / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"merges\.txt: cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_an_empty_folder_lists_what_was_looked_for(tmp_path):
    with pytest.raises(TokenizerError) as error:
        Tokenizer.from_folder(tmp_path)
    for name in (
        "tokenizer.json",
        "tekken.json",
        "tokenizer.model",
        "spiece.model",
        "qwen.tiktoken",
        "vocab.json",
        "vocab.txt",
    ):
        assert name in str(error.value)


@pytest.mark.parametrize("config", [{}, {"do_lower_case": False}, {"strip_accents": False}, {"tokenize_chinese_chars": False}])
def test_bert_ids_are_those_of_transformers(tmp_path, config):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the The warp and weft of loom è e ##f ##t we 日 日本 1 ##2 ##3 . , !".split()
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **config}))
    ours, theirs = Tokenizer.from_folder(tmp_path), transformers.BertTokenizer.from_pretrained(tmp_path)
    for text in NASTY:
        ids = theirs(text)["input_ids"]
        assert ours.encode(text, parse_special=True) == ids, repr(text)
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids, clean_up_tokenization_spaces=False), repr(text)
    assert ours.special_ids == {0, 1, 2, 3, 4}
