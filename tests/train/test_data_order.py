"""Properties of the order of examples: each once per epoch, rows that fit, a pure function of its arguments."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.train.data.order import Order, best_fit, shuffled

LENGTHS = st.lists(st.integers(1, 32), min_size=1, max_size=200)
ARGUMENTS = {
    "lengths": LENGTHS,
    "batch_size": st.integers(1, 20),
    "pack": st.booleans(),
    "seed": st.integers(0, 2**32 - 1),
}


def epoch_of(order: Order, epoch: int) -> list[list[list[int]]]:
    begin = epoch * order.steps_per_epoch
    return [order.rows(step) for step in range(begin, begin + order.steps_per_epoch)]


@given(**ARGUMENTS, epoch=st.integers(0, 5))
@settings(deadline=None)
def test_every_example_occurs_once_per_epoch_and_rows_fit(lengths, batch_size, pack, seed, epoch):
    steps = epoch_of(Order(lengths, batch_size, 32, pack, seed), epoch)
    assert sorted(e for rows in steps for row in rows for e in row) == list(range(len(lengths)))
    assert all(sum(lengths[e] for e in row) <= 32 for rows in steps for row in rows)
    if not pack:
        assert all(len(row) == 1 for rows in steps for row in rows)


@given(**ARGUMENTS)
@settings(deadline=None)
def test_steps_have_batch_size_rows_or_differ_by_one(lengths, batch_size, pack, seed):
    order = Order(lengths, batch_size, 32, pack, seed)
    sizes = [len(rows) for rows in epoch_of(order, 0)]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == -(-order.n_rows // batch_size)


@given(**ARGUMENTS, asked=st.lists(st.integers(0, 60), max_size=12))
@settings(deadline=None)
def test_steps_may_be_asked_for_in_any_order(lengths, batch_size, pack, seed, asked):
    one = Order(lengths, batch_size, 32, pack, seed)
    for step in asked:
        assert one.rows(step) == Order(lengths, batch_size, 32, pack, seed).rows(step)


@given(**ARGUMENTS)
@settings(deadline=None)
def test_the_longest_row_of_a_step_comes_first(lengths, batch_size, pack, seed):
    for rows in epoch_of(Order(lengths, batch_size, 32, pack, seed), 0):
        tokens = [sum(lengths[e] for e in row) for row in rows]
        assert tokens == sorted(tokens, reverse=True)


@pytest.mark.parametrize("pack", [False, True])
def test_seeds_and_epochs_differ(pack):
    lengths = np.random.default_rng(0).integers(1, 64, 500)
    order = Order(lengths, 8, 64, pack, 0)
    first, second = ({frozenset(e for row in rows for e in row) for rows in epoch_of(order, epoch)} for epoch in (0, 1))
    assert len(first & second) <= 1, "the same rows meet in a step"
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(Order(lengths, 8, 64, pack, 1), 0)
    assert epoch_of(order, 0) != epoch_of(Order(lengths, 8, 64, pack, (0, 1)), 0)


def test_the_order_is_the_same_on_every_machine():
    """Runs started on another machine, or with another numpy, can be resumed."""
    assert shuffled(8, 7, 1, 0).tolist() == [4, 3, 6, 1, 0, 7, 2, 5]
    order = Order([5, 9, 3, 8, 2, 7, 4, 6], 2, 10, True, 0)
    assert [order.rows(step) for step in range(3)] == [[[3, 4], [7, 6]], [[0]], [[5, 2], [1]]]


def test_shuffling_is_uniform():
    """Where 0 ends up over many seeds is uniform: chi-squared with 9 degrees of freedom stays below 35 (p = 6e-5)."""
    places = np.bincount([int(np.argmin(shuffled(10, seed))) for seed in range(2000)], minlength=10)
    assert ((places - 200.0) ** 2 / 200).sum() < 35


def test_packing_fills_rows_and_sorting_saves_padding():
    lengths = np.clip(np.random.default_rng(0).lognormal(5, 0.8, 20_000).astype(int), 4, 512)
    packed, single = Order(lengths, 8, 512, True, 0), Order(lengths, 8, 512, False, 0)
    assert lengths.sum() / (512 * packed.n_rows) > 0.99
    assert packed.utilisation > 0.99
    assert single.utilisation > 0.8
    by_hand = [sum(lengths[row[0]] for row in rows) / (len(rows) * lengths[rows[0][0]]) for rows in epoch_of(single, 0)]
    assert (
        abs(np.average(by_hand, weights=[len(r) * lengths[r[0][0]] for r in epoch_of(single, 0)]) - single.utilisation) < 1e-12
    )


def test_best_fit_uses_the_fullest_row_with_room():
    # 7 and 6 open rows with 3 and 4 free tokens: the 3 goes into the row that it fills.
    assert best_fit(np.array([7, 6, 3]), np.array([1, 0, 2]), 10) == [[0, 2], [1]]
    assert best_fit(np.array([9, 1]), np.array([0, 1]), 10) == [[0, 1]]


def test_steps_of_epochs():
    order = Order([4] * 10, 4, 4, False, 0)
    assert (order.steps_per_epoch, order.steps(1), order.steps(2.5), order.steps(0.01)) == (3, 3, 8, 1)


def test_at_most_two_epochs_are_cached():
    order = Order([4] * 100, 4, 4, False, 0)
    for epoch in range(10):
        order.rows(epoch * order.steps_per_epoch)
    assert order._plan.cache_info().currsize == 2
