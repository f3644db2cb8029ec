from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.cli import app
from ordito.errors import OrditoError, TokenizerError
from ordito.text.chat import ChatTemplate
from ordito.text.to_gguf import TEXTS, metadata_of
from ordito.text.tokenizer import Tokenizer
from ordito.train import learn_tokenizer
from ordito.train.learn_tokenizer import CONTROL, END, PAD, START, TURN, TURN_END, fertility, learn, texts_of

CORPUS = [
    "The warp and the weft of a loom, 1984.\n\nIt's the weaver's 12 threads:\n    over, under; over, under.\n",
    "L'ordito e la trama di un telaio: perché no? Dell'ordito non c'è più traccia.\n",
] * 20


@pytest.fixture(scope="module")
def learned():
    return learn(CORPUS, 330)


def test_the_vocabulary_has_the_requested_size(learned):
    assert learned.vocab_size == 330
    assert learned.vocabulary.tokens[: len(CONTROL)] == list(CONTROL)
    assert [learned.pad_id, learned.bos_id, learned.eos_id] == [CONTROL.index(token) for token in (PAD, START, END)]
    assert learned.special_ids == frozenset(range(len(CONTROL)))
    assert learned.end_ids == {learned.id_of(END), learned.id_of(TURN_END)}


def test_words_of_the_corpus_become_tokens(learned):
    assert learned.vocabulary.ids.keys() >= {"Ġthe", "'ordito"}
    assert len(learned.encode(" the'ordito", add_special_tokens=False)) == 2


def test_every_digit_is_a_token_of_its_own(learned):
    assert [learned.token(id) for id in learned.encode("1984", add_special_tokens=False)] == ["1", "9", "8", "4"]
    assert not any(sum(c.isdigit() for c in token) > 1 for token in learned.vocabulary.tokens)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8")))
def test_any_text_round_trips(learned, text):
    ids = learned.encode(text)
    assert learned.decode(ids) == text
    assert ids[:1] == [learned.bos_id]
    assert learned.special_ids.isdisjoint(ids[1:])


def test_the_same_texts_give_the_same_tokenizer(learned):
    again = learn(iter(CORPUS), 330)
    assert again.engine.to_str() == learned.engine.to_str()
    assert learn(CORPUS[1:], 330).engine.to_str() != learned.engine.to_str()


def test_splitting_long_texts_changes_nothing(monkeypatch):
    text = "uno\n\n  due\n\n\ntre \n quattro!\n\n\tcinque\r\n\r\nsei \n" + "\n\n".join(TEXTS * 3)
    whole = learn([text], 400)
    monkeypatch.setattr(learn_tokenizer, "_LONG", 1)
    assert learn([text], 400).engine.to_str() == whole.engine.to_str()
    assert "ĊĊ" in whole.vocabulary.ids, "line breaks in a row stay together"


def test_written_tokenizers_agree_with_transformers(learned, tmp_path):
    import transformers

    learned.to_folder(tmp_path)
    ours = Tokenizer.from_folder(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in (*TEXTS, *CORPUS[:2]):
        ids = learned.encode(text)
        assert ours.encode(text) == ids
        assert theirs(text.replace(TURN, "")).input_ids == learned.encode(text.replace(TURN, ""))
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (learned.bos_id, learned.eos_id, learned.pad_id)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == (START, END, PAD)
    assert ours.special_ids == learned.special_ids

    chat = [{"role": "user", "content": "uno"}, {"role": "assistant", "content": "due"}, {"role": "user", "content": "tre"}]
    rendered = ChatTemplate.for_tokenizer(ours).render(chat)
    assert rendered == theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert rendered.startswith(f"{TURN}user\nuno{TURN_END}\n")
    assert ours.encode_chat(rendered).count(ours.bos_id) == 1


def test_it_can_be_written_as_gguf(learned):
    again = Tokenizer.from_gguf(metadata_of(learned, learned.vocab_size))
    assert all(again.encode(text) == learned.encode(text) for text in TEXTS)


def test_special_tokens_are_control_tokens():
    made = learn(CORPUS, 300, ["<|tool|>"])
    assert made.id_of("<|tool|>") in made.special_ids
    assert made.id_of("<|tool|>") not in made.encode("<|tool|>")


@pytest.mark.parametrize(
    ("size", "special", "error"),
    [(260, (), "no room"), (400, ("<|pad|>",), "must be new"), (400, ("a", "a"), "must be new"), (400, (" ",), "not empty")],
)
def test_impossible_settings_are_refused(size, special, error):
    with pytest.raises(TokenizerError, match=error):
        learn(CORPUS, size, special)


def test_fertility_is_counted_over_all_texts(learned):
    found = fertility(["uno due", "tre"], {"ours": learned, "bytes": learn(["a"], 261)})
    assert (found["bytes"].tokens, found["bytes"].words, found["bytes"].bytes) == (10, 3, 10)
    assert found["bytes"].per_word == pytest.approx(10 / 3)
    assert found["bytes"].bytes_per_token == pytest.approx(1.0)
    assert found["ours"].tokens == sum(len(learned.encode(text, add_special_tokens=False)) for text in ("uno due", "tre"))
    assert fertility([], {"ours": learned})["ours"].per_word == 0.0


def test_texts_of_records(tmp_path):
    file = tmp_path / "chats.jsonl"
    chat = [{"role": "user", "content": "uno"}, {"role": "assistant", "content": "due"}]
    file.write_text("\n".join(map(json.dumps, [{"text": "a"}, {"messages": chat}, {"prompt": "b", "completion": "c"}])))
    assert list(texts_of([str(file)])) == ["a", "uno", "due", "b", "c"]
    file.write_text(json.dumps({"body": "a"}))
    assert list(texts_of([str(file)], "body")) == ["a"]
    with pytest.raises(OrditoError, match=r"chats\.jsonl:1: is no conversation"):
        list(texts_of([str(file)]))


@pytest.fixture
def files(tmp_path):
    english, italian = tmp_path / "english.txt", tmp_path / "italian.txt"
    english.write_text(CORPUS[0] * 20)
    italian.write_text(CORPUS[1] * 20)
    return english, italian


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_gives_no_tokenizer(texts):
    with pytest.raises(TokenizerError, match="there is no text"):
        learn(texts, 330)


def test_the_commands(files, tmp_path):
    english, italian = map(str, files)
    output = tmp_path / "made"
    run = CliRunner()
    done = run.invoke(
        app, ["tokenizer", "train", "-d", english, "-d", italian, "-n", "330", "-o", str(output), "-s", "<|tool|>"]
    )
    assert done.exit_code == 0, done.output
    assert "330 tokens" in done.output
    assert Tokenizer.from_folder(output).id_of("<|tool|>") is not None
    again = run.invoke(app, ["tokenizer", "train", "-d", english, "-n", "330", "-o", str(output)])
    assert "exists already" in str(again.exception)
    few = run.invoke(app, ["tokenizer", "train", "-d", english, "-n", "5000", "-o", str(output), "--force"])
    assert "no more pairs to merge" in few.output

    table = run.invoke(app, ["tokenizer", "fertility", str(output), "-d", english, "-d", italian])
    lines = table.output.splitlines()
    assert [line.split()[0] for line in lines] == ["data", english, italian]
    assert lines[0].split() == ["data", "tokenizer", "vocabulary", "tokens", "tokens/word", "bytes/token"]
    assert float(lines[1].split()[-2]) < float(lines[2].split()[-2]), "it knows English only"
    found = json.loads(run.invoke(app, ["tokenizer", "fertility", str(output), "-d", english, "--json"]).output)
    assert found[0]["tokens_per_word"] == pytest.approx(found[0]["tokens"] / found[0]["words"])
