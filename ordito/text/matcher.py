"""Matching of added tokens in a text, before it is encoded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set


class Matcher:
    """Finds tokens in a text: the leftmost first, of several at the same position the longest.

    Tokens in `lstrip` and `rstrip` also consume the white space before and behind them.
    """

    def __init__(self, names: Mapping[str, int], lstrip: Set[int] = frozenset(), rstrip: Set[int] = frozenset()) -> None:
        self.names = {token: id for token, id in names.items() if token}
        self.lstrip, self.rstrip = lstrip, rstrip
        lengths: dict[str, set[int]] = {}
        for token in self.names:
            lengths.setdefault(token[0], set()).add(len(token))
        self.lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}
        firsts = "".join(map(re.escape, self.lengths))
        self.begins = re.compile(f"[{firsts}]") if firsts else None

    def split(self, text: str) -> list[str | int]:
        """Text between matches, and the ids of the matches."""
        parts: list[str | int] = []
        start = place = 0
        while self.begins and (begin := self.begins.search(text, place)):
            place = begin.start()
            ends = (place + length for length in self.lengths[text[place]])
            end = next((end for end in ends if text[place:end] in self.names), None)
            if end is None:
                place += 1
                continue
            id = self.names[text[place:end]]
            before = text[start:place].rstrip() if id in self.lstrip else text[start:place]
            parts += [before, id] if before else [id]
            while id in self.rstrip and text[end : end + 1].isspace():
                end += 1
            start = place = end
        return [*parts, text[start:]] if start < len(text) else parts
