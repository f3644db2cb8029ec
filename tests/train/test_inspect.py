from __future__ import annotations

import pytest
from byte_tokenizer import byte_tokenizer

from ordito.text.chat import ChatTemplate
from ordito.text.formats import FORMATS
from ordito.train.batch import collate
from ordito.train.chatting import Writer
from ordito.train.examples import Example, Text
from ordito.train.inspect import inspect, roles_of, shown

CHATML = FORMATS["chatml"].source
TOKENIZER = byte_tokenizer(CHATML)
END, START, BOS = TOKENIZER.eos_id, TOKENIZER.id_of("<|im_start|>"), TOKENIZER.bos_id
LENGTH = 64


def chat(*turns, learn="assistant"):
    """A conversation as an example."""
    messages = [{"role": role, "content": said} for role, said in zip(("user", "assistant") * 9, turns, strict=False)]
    return Example(Writer(ChatTemplate.for_tokenizer(TOKENIZER), TOKENIZER).texts(messages, learn))


def text(said, learn=True, end=(END,)):
    return Text.of([*TOKENIZER.encode(said), *end], learn)


def changed(example, change):
    (old,) = example.texts
    ids, learn = change(old.ids.tolist(), old.learn.tolist())
    return Example((Text.of(ids, learn),))


def problems(*examples, length=LENGTH, tokenizer=TOKENIZER, **how):
    return inspect(collate(examples, length), tokenizer, **how).problems


GOOD = (chat("uno", "due"), chat("tre", "quattro"))
PLAIN = (Example((text("uno due tre"),)), Example((text("quattro"),)))


@pytest.mark.parametrize("examples", [GOOD, PLAIN, [*GOOD, *PLAIN]], ids=["chats", "plain", "both"])
def test_good_batches_have_no_problems(examples):
    assert problems(*examples) == ()
    packed = collate(examples, 256, [range(len(examples))])
    assert inspect(packed, TOKENIZER).problems == ()
    assert inspect(collate(examples), TOKENIZER, LENGTH).problems == ()


def without_end(ids, learn):
    return ids, [mark and id != END for id, mark in zip(ids, learn, strict=True)]


def cut(ids, learn):
    return ids[:-1], learn[:-1]


BROKEN = {
    "no end": (changed(GOOD[0], without_end), "no token that ends an answer is learned"),
    "no end of a plain text": (Example((text("uno", end=()),)), "no token that ends an answer is learned"),
    "doubled start": (
        changed(GOOD[0], lambda ids, learn: ([BOS, BOS, *ids], [False, False, *learn])),
        "start token stands twice",
    ),
    "nothing learned": (changed(GOOD[0], lambda ids, learn: (ids, [False] * len(ids))), "nothing is learned"),
    "everything learned": (chat("uno", "due", learn="all"), "every token of a conversation is learned"),
    "user learned": (
        changed(chat("uno", "due", "e", "ora"), lambda ids, learn: (ids, [False] * 5 + [True] * (len(ids) - 5))),
        "what others than the assistant say is learned",
    ),
    "repeated": (GOOD[1], "the same text stands more than once"),
    "padding": (
        changed(GOOD[0], lambda ids, learn: ([*ids, 0, 0, 0], [*learn, False, False, False])),
        "padding counts as part of the document",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_each_broken_batch_has_exactly_its_problem(broken):
    example, sentence = BROKEN[broken]
    tokenizer = byte_tokenizer(CHATML, pad=0)
    found = problems(GOOD[1], example, tokenizer=tokenizer)
    assert len(found) == 1
    assert sentence in found[0]
    number = 0 if broken == "repeated" else 1
    assert found[0].endswith(f"in {2 - number} of 2 texts, first in text {number}")


def test_a_truncated_answer():
    example = changed(GOOD[0], cut)
    (found,) = problems(GOOD[0], example, length=len(GOOD[0].texts[0]))
    assert "no token that ends" in found, "a row that is not full was not cut off"
    n = len(example.texts[0])
    (found,) = problems(example, length=n)
    assert "cut off at the length of the row" in found
    (found,) = inspect(collate([example]), TOKENIZER, LENGTH).problems
    assert "no token that ends" in found


def test_a_piece_of_a_long_text_may_end_anywhere():
    piece = Example((text("x" * LENGTH, end=()),))
    assert problems(piece) == ()


def test_texts_that_are_compared_need_no_learned_tokens_nor_ends():
    compared = Example((text("uno", learn=False, end=()), text("due", learn=False, end=())), 1.0)
    classified = Example((text("tre", end=()),), 0.0)
    assert problems(compared, classified) == ()


def test_unknown_tokens():
    tokenizer = byte_tokenizer(CHATML, unk=TOKENIZER.encode("u")[0])
    (found,) = problems(GOOD[0], Example((text("altro"),)), tokenizer=tokenizer)
    assert found == "there are unknown tokens in 1 of 2 texts, first in text 0"


def test_problems_are_found_over_all_batches():
    batches = [collate([example], LENGTH) for example in (*GOOD, changed(GOOD[0], without_end))]
    (first, second) = inspect(batches, TOKENIZER).problems
    assert "in 1 of 3 texts, first in text 2" in first
    assert "the same text stands more than once, in 2 of 3 texts" in second


@pytest.mark.parametrize(
    "name", ["chatml", "llama-3", "gemma", "phi-3", "mistral-v7-tekken", "harmony", "deepseek-v3", "llama-4"]
)
def test_roles_are_derived_from_control_tokens(name):
    template = FORMATS[name].source
    tokenizer = byte_tokenizer(template, eos="</s>" if "mistral" in name else None)
    messages = [{"role": "user", "content": "user uno"}, {"role": "assistant", "content": "user due"}]
    (found,) = Writer(ChatTemplate.for_tokenizer(tokenizer), tokenizer).texts(messages)
    roles = roles_of(found.ids.tolist(), tokenizer)
    said = {
        role: tokenizer.decode([id for id, r in zip(found.ids.tolist(), roles, strict=True) if r == role]) for role in roles
    }
    others = "".join(text for role, text in said.items() if role not in ("assistant", "model"))
    answer = said.get("assistant", said.get("model", ""))
    assert "uno" in others
    assert "due" in answer
    assert "due" not in others
    assert "uno" not in answer
    assert inspect(collate([Example((found,))], 512), tokenizer).problems == ()


def test_the_text_of_rows():
    batch = collate([*GOOD, Example((text("è un\t"),))], 64, [[0, 2], [1]])
    shown = inspect(batch, TOKENIZER).text().splitlines()
    assert shown[0] == f"row 0: {len(GOOD[0].texts[0]) + 7} of 64 tokens, {int(GOOD[0].texts[0].learn.sum()) + 6} learned"
    assert shown[1] == f"  document 0: {len(GOOD[0].texts[0])} tokens"
    assert "    learned assistant d│u│e│<|im_end|>" in shown
    assert any(line.startswith("    given   user") and "<|im_start|>│u│s│e│r│⏎│u│n│o│<|im_end|>" in line for line in shown)
    assert any("⟨C3⟩│⟨A8⟩│␣│u│n│⇥" in line or "⟨A8⟩│␣│u│n│⇥" in line for line in shown)
    assert any(line.startswith("  padding: ") for line in shown)


def test_colours_are_optional():
    found = inspect(collate([changed(GOOD[0], without_end)], LENGTH), TOKENIZER)
    assert "\x1b[" in found.text(colour=True)
    assert "\x1b[" not in found.text()
    assert found.text(rows=0) == ""


def test_control_characters_are_escaped():
    assert shown(TOKENIZER.encode("\x1b")[0], TOKENIZER) == "�"
