"""How many tokens are drafted, and which ones prompt lookup finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ordito.engine.drafting import MAX_DRAFT, MAX_NGRAM, MIN_NGRAM, PAUSE, DraftLength, PromptLookup


def test_drafts_grow_while_all_is_accepted_and_pause_when_nothing_is():
    length, sizes = DraftLength(4), []
    for accepted in (4, MAX_DRAFT, 4, 3, 0, 0):
        sizes.append(length.next(99))
        length.learn(sizes[-1], accepted)
    assert sizes == [4, MAX_DRAFT, MAX_DRAFT, MAX_DRAFT, MAX_DRAFT // 2, MAX_DRAFT // 4]
    assert length.next(99) == 1
    length.learn(1, 0)
    assert [length.next(99) for _ in range(PAUSE + 1)] == [0] * PAUSE + [1]


def test_a_draft_is_at_most_as_long_as_asked():
    assert DraftLength(4).next(3) == 3


@given(ids=st.lists(st.integers(0, 2), max_size=40), steps=st.lists(st.integers(1, 9)))
def test_a_draft_is_what_followed_the_longest_ngram_when_it_came_last(ids, steps):
    """However many tokens were added since the lookup before."""
    lookup, end = PromptLookup(), 0
    for step in [*steps, len(ids)]:
        end = min(len(ids), end + step)
        text = ids[:end]
        places = [
            (length, place)
            for length in range(MIN_NGRAM, MAX_NGRAM + 1)
            for place in range(length, end)
            if text[place - length : place] == text[-length:]
        ]
        place = max(places)[1] if places else end
        assert lookup.propose(text, 3) == text[place : place + 3]
