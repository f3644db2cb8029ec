"""Compiled character maps; test_from_sentencepiece.py compares their effect on text with the library's."""

from __future__ import annotations

import pytest
from model_files import CHARSMAP

from ordito.errors import TokenizerError
from ordito.text.charsmap import Charsmap


def test_the_longest_key_is_replaced():
    table = Charsmap(CHARSMAP)
    assert table.replace("ﬁe\u0301e\u0302Ａ\x07\t…") == "fiée\u0302A ..."
    assert table.replace("") == ""
    assert table.replace("plain 日本 \x00") == "plain 日本 \x00"


@pytest.mark.parametrize("table", [b"", b"\1\0\0\0", b"\x08\0\0\0abcd", b"\2\0\0\0ab"])
def test_a_truncated_table_is_refused(table):
    with pytest.raises(TokenizerError, match="begins with a table"):
        Charsmap(table)


def test_a_damaged_map_is_refused():
    size = int.from_bytes(CHARSMAP[:4], "little")
    with pytest.raises(TokenizerError, match="no replacement"):
        Charsmap(CHARSMAP[: 4 + size] + b"endless" * 1_000).replace("ﬁ")
    with pytest.raises(TokenizerError, match="leads to entry"):
        Charsmap((4).to_bytes(4, "little") + CHARSMAP[4:8]).replace("ﬁ")
