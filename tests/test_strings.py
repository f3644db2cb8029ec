"""Strings are a sequence like a list of them, and their places a mapping like a dict."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordito._core import lost_merge
from ordito.strings import Places, Strings

TEXTS = st.lists(st.text(st.characters(), max_size=12) | st.sampled_from(["", "a", "▁", "x▁", "\0", "\ud800"]), max_size=40)


@given(TEXTS)
def test_strings_are_those_of_a_list(texts):
    strings = Strings(texts)
    assert (len(strings), list(strings), list(reversed(strings))) == (len(texts), texts, texts[::-1])
    assert strings == texts
    assert texts == strings
    assert strings == Strings(texts)
    assert strings != [*texts, "one more"]
    assert strings[3:1:-1] == texts[3:1:-1]
    assert strings.longest == max((len(text.encode("utf-8", "surrogatepass")) for text in texts), default=0)
    with pytest.raises(IndexError):
        strings[len(texts)]


@given(TEXTS, st.sets(st.integers(0, 39)), st.lists(st.text(max_size=3), max_size=9))
def test_places_are_those_of_a_dict(texts, without, others):
    first = {text: place for place, text in reversed(list(enumerate(texts)))}
    kept = {text: place for text, place in first.items() if place not in without}
    places = Places(Strings(texts), {place for place in without if place < len(texts)})
    assert dict(places) == kept
    assert len(places) == len(kept)
    for text in [*texts, *others]:
        assert places.get(text) == kept.get(text)
        assert (text in places) == (text in kept)
    assert 5 not in places
    assert places.get(5) is None


def test_a_string_that_is_added_later_is_found():
    strings = Strings(["a"])
    assert strings.find("b") is None
    encoded = np.frombuffer(b"\1\0\0\0\0\0\0\0b\2\0\0\0\0\0\0\0\xc3", np.uint8)
    assert strings.read(encoded, 0, 1, "strict") == 9
    assert strings.find("b") == 1
    assert strings.read(encoded, 9, 1, "strict") is None, "it ends beyond the end"


def test_bytes_that_are_no_utf_8_are_replaced_or_refused():
    encoded = np.frombuffer(b"\3\0\0\0\0\0\0\0a\xffb", np.uint8)
    strings = Strings()
    with pytest.raises(UnicodeDecodeError):
        strings.read(encoded, 0, 1, "strict")
    strings.read(encoded, 0, 1, "replace")
    assert strings == ["a�b"]
    assert strings.find("a�b") == 0


@given(TEXTS)
def test_characters_before_a_string(texts):
    texts = [text.replace("\0", "") for text in texts]
    expected = {text[place - 1] for text in texts for place in range(1, len(text)) if text[place] == "▁"}
    assert set(Strings(texts).characters_before("▁")) == expected


def test_merges_whose_union_is_no_token():
    tokens = Strings(["a", "b", "ab", " b", "è", "èa"])
    assert lost_merge(Strings(["a b", "  b", "è a"]), tokens) is None
    assert lost_merge(Strings(["a b", "b a"]), tokens) == 1


def test_copies_are_equal():
    strings = Strings(["a", "", "\ud800"])
    assert copy.deepcopy(strings) == pickle.loads(pickle.dumps(strings)) == strings
    assert repr(strings) == "<3 strings>"
    with pytest.raises(TypeError):
        hash(strings)


def test_only_strings():
    with pytest.raises(TypeError):
        Strings(["a", 5])
