"""The queue of waiting answers: whose turn it is, and what stays."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from ordito.engine.queue import LOOKAHEAD, Queue


def answers(users):
    return [SimpleNamespace(request=SimpleNamespace(user=user), number=number) for number, user in enumerate(users)]


def drained(queue):
    taken = []
    while (one := queue.first(lambda _: True)) is not None:
        queue.take(one)
        taken.append(one)
    return taken


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_users_take_turns_and_each_keeps_its_order(users):
    queue, added = Queue(), answers(users)
    for one in added:
        queue.add(one)
    assert len(queue) == len(added)
    assert sorted(one.number for one in queue) == [one.number for one in added]
    taken = drained(queue)
    left = {user: [one for one in added if one.request.user == user] for user in dict.fromkeys(users)}
    expected = []
    while any(left.values()):
        expected += [ones.pop(0) for ones in left.values() if ones]
    assert taken == expected
    assert len(queue) == 0


def test_those_that_are_not_ready_are_passed_over_and_stay():
    queue, added = Queue(), answers("a" * (LOOKAHEAD + 1) + "b")
    for one in added:
        queue.add(one)
    assert queue.first(lambda one: one.number > 1) is added[2]
    assert queue.first(lambda one: one.number >= LOOKAHEAD) is added[-1]  # no farther ahead than that; the next user's
    assert queue.first(lambda one: False) is None
    assert len(queue) == len(added)


def test_a_preempted_answer_is_the_first_of_its_user():
    queue, (first, second, third) = Queue(), answers("aaa")
    queue.add(second)
    queue.add(third)
    queue.put_back(first)
    queue.remove(second)
    assert drained(queue) == [first, third]
