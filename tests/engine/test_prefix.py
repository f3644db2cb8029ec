"""Which sequences the prefix cache keeps, and which it gives to a prompt."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from ordito.engine.prefix import PrefixCache, shared_length

TEXTS = st.lists(st.lists(st.integers(0, 1), max_size=6), max_size=8)


@dataclass(frozen=True)
class Sequence:
    length: int

    def fork(self, length):
        return Sequence(length)


def filled(texts, windowed=False):
    cache = PrefixCache()
    for ids in texts:
        cache.keep(ids, Sequence(len(ids)), "user", windowed=windowed)
    return cache


@given(texts=TEXTS, prompt=st.lists(st.integers(0, 1), min_size=1, max_size=6))
def test_a_prompt_continues_the_longest_prefix_that_was_read(texts, prompt):
    """All but its last token, whose logits are needed; whatever was left out of the cache as a prefix of another text."""
    cache = filled(texts)
    longest = max((min(shared_length(ids, prompt), len(prompt) - 1) for ids in texts), default=0)
    assert cache.longest(prompt, "user") == longest
    assert cache.longest(prompt, "another") == 0
    found = cache.find(prompt, "user")
    assert (found.sequence.length if found.sequence else 0) == longest
    assert (found.missed == "") == (0 < longest == len(prompt) - 1)


@given(texts=TEXTS)
def test_no_text_is_kept_beside_one_that_begins_with_it_unless_it_cannot_be_rewound(texts):
    kept = [kept.ids.tolist() for kept in filled(texts).kept]
    assert not any(one == other[: len(one)] for one in kept for other in kept if one is not other)
    windowed = [tuple(kept.ids) for kept in filled(texts, windowed=True).kept]
    assert sorted(windowed) == sorted({tuple(ids) for ids in texts if ids})


def test_the_least_recently_used_sequence_is_evicted_first():
    cache = filled([[1], [2, 2], [3]])
    cache.find([2, 2, 5], "user")
    assert [cache.drop() for _ in range(2)] == [True, True]
    assert [kept.ids.tolist() for kept in cache.kept] == [[2, 2]]
    assert [cache.drop() for _ in range(2)] == [True, False]
