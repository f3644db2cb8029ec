"""The blocks that a cache is predicted to take are those that the runtime cuts."""

from __future__ import annotations

from math import ceil

import pytest

import ordito
from ordito.accounting import account
from ordito.fitting.backends import MIB, backend, blocks
from ordito.fitting.memory import demand
from ordito.fitting.vocabularies import assumed


def test_the_unused_rest_of_a_block_counts():
    page = 32 * 100 * 2  # of a layer of 100 numbers at 16 bits
    many = ceil(2 * MIB / page)
    assert blocks([(100, 1)], 2, 1) == many * page
    assert blocks([(100, 64)], 2, 1) == many * page  # two pages, each alone
    assert blocks([(100, 65)], 2, 1) == many * page + ceil(2 * MIB / (2 * page)) * 2 * page  # and two together, of another size
    assert blocks([(100, 1)], 2, many) == many * page
    assert blocks([(100, 1)], 2, many + 1) == 2 * many * page


@pytest.mark.parametrize("tokens", [1, 64, 65, 500])
def test_blocks_hold_what_the_runtime_caches(tokens, folder):
    model = ordito.load(folder, backend="native")
    session = model.runtime.session()
    session.feed([1] * tokens)
    predicted = backend("native").held_cache(demand(account(model.spec), assumed(model.spec.vocab_size)), tokens, 1)
    held, sizes = session.sequence.nbytes, 4  # one, two, four and eight pages together
    assert held <= predicted <= held + sizes * 3 * MIB
