"""Fitting examples into rows: truncation, splitting, counts."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.train.data.cutting import Counts, Cutter, equal_share, split
from ordito.train.examples import Example, Text

TEXT = st.lists(st.booleans(), max_size=50).map(
    lambda marks: Text.of(list(range(len(marks))), marks, at=np.arange(len(marks)) * 10)
)


def fit(example, **settings):
    counts = Counts(read=1)
    made = list(Cutter(**{"length": 8, "packs": True, "split_long": False} | settings).fit(example, counts))
    return made, asdict(counts)


@given(TEXT, st.integers(2, 12))
def test_every_token_of_a_split_text_is_learned_once(text, length):
    pieces = split(text, length)
    assert all(len(piece) <= length for piece in pieces)
    learned = [int(i) for piece in pieces for i in piece.ids[piece.learn]]
    assert learned == text.ids[text.learn].tolist()
    for piece in pieces:
        assert piece.extra["at"].tolist() == (piece.ids * 10).tolist()
        assert np.array_equal(np.diff(piece.ids), np.ones(max(len(piece) - 1, 0)))
    for before, after in zip(pieces, pieces[1:], strict=False):
        assert before.ids[-1] == after.ids[0]
        assert len(before) == length


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(6, 60))
def test_the_equal_share_is_the_largest_that_fits(lengths, room):
    share = equal_share(lengths, room)
    assert sum(min(length, share) for length in lengths) <= room
    if max(lengths) > share:
        assert sum(min(length, share + 1) for length in lengths) > room


@given(st.lists(TEXT, min_size=1, max_size=4), st.sampled_from([float("nan"), 1.0]), st.booleans(), st.booleans())
@settings(max_examples=200)
def test_rows_are_never_too_long_and_counts_add_up(texts, label, packs, split_long):
    example = Example(tuple(texts), label)
    made, counts = fit(example, packs=packs, split_long=split_long)
    for each in made:
        assert (sum if packs else max)(len(text) for text in each.texts) <= 8
    assert counts["kept"] == len(made)
    assert counts["tokens"] == sum(len(text) for each in made for text in each.texts)
    assert counts["learned"] == sum(int(text.learn.sum()) for each in made for text in each.texts)


def test_examples_that_fit_are_unchanged():
    example = Example((Text.of([1, 2, 3]),), 2.0)
    made, counts = fit(example)
    assert made == [example]
    assert counts == {"read": 1, "kept": 1, "cut": 0, "split": 0, "left_out": 0, "tokens": 3, "learned": 2}


def test_a_long_text_is_truncated_or_split():
    example = Example((Text.of(list(range(15))),))
    made, counts = fit(example)
    assert [each.texts[0].ids.tolist() for each in made] == [list(range(8))]
    assert (counts["cut"], counts["split"]) == (1, 0)
    made, counts = fit(example, split_long=True)
    assert [each.texts[0].ids.tolist() for each in made] == [list(range(8)), list(range(7, 15))]
    assert (counts["cut"], counts["split"], counts["kept"], counts["learned"]) == (0, 1, 2, 14)


def test_examples_without_learned_tokens_are_left_out():
    answer_behind = Example((Text.of(list(range(12)), [i > 8 for i in range(12)]),))
    assert fit(answer_behind)[1]["left_out"] == 1
    assert fit(Example((Text.of([1, 2], False),)))[1]["left_out"] == 1
    assert fit(Example((Text.of([]),)))[1]["left_out"] == 1
    labelled = Example((Text.of([1, 2], False),), 0.0)
    assert fit(labelled)[0] == [labelled]


def test_texts_that_are_compared_stay_together_and_need_no_learned_tokens():
    pair = Example((Text.of([1, 2], False), Text.of([3], False)))
    assert fit(pair, packs=False)[0] == [pair]
    short, long = Text.of([1, 2, 3]), Text.of(list(range(12)), [i > 8 for i in range(12)])
    assert fit(Example((short, long)), packs=False)[1] == {
        "read": 1, "kept": 0, "cut": 0, "split": 0, "left_out": 1, "tokens": 0, "learned": 0
    }  # fmt: skip


def test_texts_of_a_conversation_become_examples_when_packing():
    example = Example((Text.of(list(range(6))), Text.of(list(range(7)))))
    made, counts = fit(example)
    assert [len(each.texts[0]) for each in made] == [6, 7]
    assert counts["kept"] == 2


def test_choices_share_a_row_and_the_longest_is_truncated_first():
    example = Example((Text.of([1, 2]), Text.of(list(range(9)))), 1.0)
    made, _ = fit(example)
    assert [[len(text) for text in each.texts] for each in made] == [[2, 6]]


def test_large_shares_give_warnings():
    assert Counts(kept=100, cut=4, left_out=3).warnings(512) == []
    cut, left_out = Counts(kept=88, cut=12, left_out=12).warnings(512)
    assert cut == "12% of the examples are cut at 512 tokens, so that their ends are never learned; a larger length keeps them"
    assert left_out.startswith("12% of the examples are left out")
