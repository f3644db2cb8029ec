"""The most probable segmentation of a word, compared with trying all of them."""

from __future__ import annotations

import math
import random
from itertools import combinations, pairwise

import pytest

from ordito.text.unigram import LikelyPieces


def every_way(word):
    for count in range(len(word)):
        for cuts in combinations(range(1, len(word)), count):
            ends = [0, *cuts, len(word)]
            yield [word[start:end] for start, end in pairwise(ends)]


@pytest.mark.parametrize("seed", range(20))
def test_no_segmentation_is_more_probable(seed):
    choose = random.Random(seed)
    pieces = {}
    for _ in range(15):
        pieces.setdefault("".join(choose.choices("ab▁é", k=choose.randint(1, 4))), len(pieces))
    scores = [-choose.random() * 9 for _ in pieces]
    engine = LikelyPieces(pieces, scores, 99)
    unknown = min(scores) - 10

    def likelihood(way):
        return sum(scores[pieces[piece]] if piece in pieces else unknown if len(piece) == 1 else -math.inf for piece in way)

    for _ in range(20):
        word = "".join(choose.choices("ab▁éx", k=choose.randint(1, 7)))
        found = engine.segment(word)
        assert "".join(found) == word
        assert likelihood(found) == pytest.approx(max(map(likelihood, every_way(word))), abs=1e-9)


def test_unknown_characters_in_a_row_are_one_token():
    engine = LikelyPieces({"a": 1, "▁": 2}, [0.0, -1.0, -1.0], 0)
    assert engine.encode("▁axyzaa▁xx") == [2, 1, 0, 1, 1, 2, 0]
