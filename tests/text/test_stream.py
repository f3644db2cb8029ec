from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.text.stream import Detokenizer, StopStrings

pieces_of_bytes = st.lists(
    st.binary(max_size=5) | st.sampled_from([b"\xe2\x82", b"\xac", b" ", "🧵".encode()[:2], "🧵".encode()[2:]])
)


@given(pieces_of_bytes, st.booleans())
def test_the_pieces_joined_are_the_whole_text(pieces, strip):
    detokenizer = Detokenizer(lambda i: pieces[i], strip)
    streamed = "".join(detokenizer.push(i) for i in range(len(pieces))) + detokenizer.flush()
    whole = b"".join(pieces).decode("utf-8", "replace")
    assert streamed == (whole.removeprefix(" ") if strip else whole)


@given(st.text())
def test_no_half_character_is_shown(text):
    data = text.encode()
    detokenizer = Detokenizer(lambda i: data[i : i + 1])
    shown = ""
    for i in range(len(data)):
        shown += detokenizer.push(i)
        assert text.startswith(shown)


def cut(text, stops, places):
    """The text that comes through when it arrives in pieces cut at `places`."""
    places = sorted({min(place, len(text)) for place in places})
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    filter, shown = StopStrings(stops), ""
    for piece in pieces:
        more, stopped = filter.push(piece)
        shown += more
        if stopped:
            return shown, True
    return shown + filter.flush(), False


small = st.text("ab", max_size=12)


@settings(max_examples=1000, deadline=None)
@given(small, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 12)))
def test_stop_strings_do_not_depend_on_the_pieces(text, stops, places):
    found = [text.find(stop) for stop in stops if stop in text]
    if not found:
        assert cut(text, stops, places) == (text, False)
        return
    shown, stopped = cut(text, stops, places)
    assert stopped
    assert not any(stop in shown for stop in stops)
    # The stop string that is complete first ends the text, wherever the pieces were cut.
    begins = min((text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text)[1]
    assert shown == text[:begins]


@given(small, st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_is_held_back_is_shown_in_the_end(text, stops):
    filter = StopStrings(stops)
    more, stopped = filter.push(text)
    assert stopped or more + filter.flush() == text
