"""The blocks that a cache is predicted to take are those that the runtime cuts."""

from __future__ import annotations

import pytest

import ordito
from ordito.accounting import account
from ordito.fitting.backends import MIB, blocks


def test_the_unused_rest_of_a_block_counts():
    page = 32 * 100 * 2  # of a layer of 100 numbers at 16 bits
    assert blocks([(100, 1)], 2, 1) == 2 * MIB
    assert blocks([(100, 64)], 2, 1) == 2 * MIB  # two pages, each alone
    assert blocks([(100, 65)], 2, 1) == 4 * MIB  # and two together, of another size
    many = 2 * MIB // page
    assert blocks([(100, 1)], 2, many) == 2 * MIB
    assert blocks([(100, 1)], 2, many + 1) == 4 * MIB


@pytest.mark.parametrize("tokens", [1, 64, 65, 500])
def test_blocks_hold_what_the_runtime_caches(tokens, folder):
    model = ordito.load(folder, backend="native")
    session = model.runtime.session()
    session.feed([1] * tokens)
    cached = [(slot.numbers, tokens) for slot in account(model.spec).kv_cache.layers]
    held, sizes = session.sequence.nbytes, 4  # one, two, four and eight pages together
    assert held <= blocks(cached, 2, 1) <= held + sizes * 2 * MIB
