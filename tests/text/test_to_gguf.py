"""Tokenizers of folders as GGUF metadata: the same ids, whatever they were read from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from ordito.errors import OrditoWarning, TokenizerError
from ordito.text import to_gguf
from ordito.text.from_gguf import STRIPS
from ordito.text.pretokenizers import PRE_TOKENIZERS
from ordito.text.tokenizer import Tokenizer as Ours

TRAINED_ON = [*to_gguf.TEXTS, "the warp and the weft of a loom, 12 of 345 threads", "l'ordito e la trama, perché no?"] * 4


def trained(model, trainer, before, decoder, normalizer=None):
    library = Tokenizer(model)
    library.pre_tokenizer, library.decoder = before, decoder
    if normalizer is not None:
        library.normalizer = normalizer
    library.train_from_iterator(TRAINED_ON, trainer)
    return library


def byte_level(name):
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[name].patterns]
    before = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    return trained(models.BPE(), trainer, before, decoders.ByteLevel())


def wordpiece(lowercase):
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    library = trained(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        normalizers.BertNormalizer(lowercase=lowercase),
    )
    library.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return library


def folder_of(library, folder, **config):
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Ours.from_folder(folder)


def back(tokenizer, extra=3):
    return Ours.from_gguf(to_gguf.metadata_of(tokenizer, tokenizer.vocab_size + extra))


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "gpt-2", "smollm", "gpt-4o", "deepseek-llm", "deepseek-v3", "qwen35"])
def test_byte_level(name, tmp_path):
    tokenizer = folder_of(byte_level(name), tmp_path, bos_token="<s>", eos_token="</s>")
    metadata = to_gguf.metadata_of(tokenizer, tokenizer.vocab_size)
    assert PRE_TOKENIZERS[metadata["tokenizer.ggml.pre"]].patterns == PRE_TOKENIZERS[name].patterns
    found = Ours.from_gguf(metadata)
    assert (found.bos_id, found.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    for text in TRAINED_ON:
        assert found.encode(text) == tokenizer.encode(text)


@pytest.mark.parametrize("lowercase", [True, False])
def test_word_pieces(lowercase, tmp_path):
    tokenizer = folder_of(wordpiece(lowercase), tmp_path, cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]")
    found = back(tokenizer)
    for text in TRAINED_ON:
        assert found.encode(text) == tokenizer.encode(text)
    assert found.encode("a")[0] == 2
    assert found.encode("a")[-1] == 3


def test_the_vocabulary_is_padded_to_the_rows_of_the_embedding(tmp_path):
    tokenizer = folder_of(byte_level("smollm"), tmp_path)
    found = back(tokenizer, extra=5)
    assert found.vocab_size == tokenizer.vocab_size + 5
    assert found.encode("[PAD600]") == tokenizer.encode("[PAD600]")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    library = byte_level("qwen2")
    library.add_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<tool>", special=False)])
    tokenizer = folder_of(library, tmp_path_factory.mktemp("t"), chat_template="{{ messages[0].content }}")
    return tokenizer, back(tokenizer)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text(pair, text):
    tokenizer, found = pair
    assert found.encode(text) == tokenizer.encode(text)


def test_added_tokens_and_the_template(pair):
    tokenizer, found = pair
    text = "<|im_start|>user <tool>x</tool>"
    for parse in (True, False):
        assert found.encode(text, parse_special=parse) == tokenizer.encode(text, parse_special=parse)
    assert found.chat_template == tokenizer.chat_template == "{{ messages[0].content }}"


def test_added_tokens_of_word_pieces(tmp_path):
    library = wordpiece(True)
    library.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("<|sep|>", special=True, normalized=False)])
    tokenizer = folder_of(library, tmp_path)
    found, text = back(tokenizer), "a <tool>b<|sep|> perché"
    for parse in (True, False):
        assert found.encode(text, parse_special=parse) == tokenizer.encode(text, parse_special=parse)
    ids = tokenizer.encode(text, parse_special=True)
    for skip in (True, False):
        assert found.decode(ids, skip_special_tokens=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


STRIPPED = [AddedToken("<|end|>", special=True, rstrip=True), AddedToken("<both>", lstrip=True, rstrip=True, normalized=False)]


def test_tokens_that_take_white_space_are_told_and_noted(tmp_path):
    library = byte_level("qwen2")
    library.add_tokens(STRIPPED)
    tokenizer = folder_of(library, tmp_path)
    with pytest.warns(OrditoWarning, match=r"<\|end\|> \(and 1 more\) takes away the white space"):
        found = back(tokenizer)
    found.to_folder(tmp_path / "again")
    for text in ("a <|end|>\n a", "a <both>\n\n a", "<both><|end|> ", " <both> <|end|> x"):
        for parse in (True, False):
            ids = tokenizer.encode(text, parse_special=parse)
            assert ids == found.encode(text, parse_special=parse)
            assert ids == Ours.from_folder(tmp_path / "again").encode(text, parse_special=parse)


def test_tokens_that_take_white_space_which_is_lost_anyway(tmp_path):
    library = wordpiece(True)
    library.add_tokens(STRIPPED)
    metadata = to_gguf.metadata_of(folder_of(library, tmp_path), library.get_vocab_size())
    assert not metadata.keys() & STRIPS.values()


def test_files_of_phi3_are_known_by_their_name(tmp_path):
    library = byte_level("qwen2")
    library.add_tokens([AddedToken("<|end|>", special=True), AddedToken("<|endoftext|>", special=True)])
    metadata = to_gguf.metadata_of(folder_of(library, tmp_path), library.get_vocab_size())
    plain, named = (Ours.from_gguf(metadata | {"general.name": name}) for name in ("Phi 4", "Phi3 mini 4k"))
    for text, same in (("<|end|>\na", False), ("a <|end|>a", True), ("<|endoftext|>\na", True)):
        assert (plain.encode(text, parse_special=True) == named.encode(text, parse_special=True)) is same
    noted = Ours.from_gguf(metadata | {"general.name": "Phi3", "tokenizer.ordito.lstrip": [library.token_to_id("<|end|>")]})
    assert noted.encode("<|end|>\na", parse_special=True) == plain.encode("<|end|>\na", parse_special=True)


def test_nfc_normalization_is_lost_with_a_warning(tmp_path):
    library = byte_level("qwen2")
    library.normalizer = normalizers.NFC()
    tokenizer = folder_of(library, tmp_path)
    with pytest.warns(OrditoWarning, match="composed form"):
        found = back(tokenizer)
    assert found.encode("perché") == tokenizer.encode("perché")
    assert found.encode("perche\u0301") != tokenizer.encode("perche\u0301")


def test_what_gguf_cannot_express(tmp_path):
    library = trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
        pre_tokenizers.Sequence([pre_tokenizers.Split("a", "isolated"), pre_tokenizers.ByteLevel(use_regex=False)]),
        decoders.ByteLevel(),
    )
    with pytest.raises(TokenizerError, match="no name for"):
        to_gguf.metadata_of(folder_of(library, tmp_path), 400)
