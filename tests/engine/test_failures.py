"""A failure reaches the requests that it concerns, and no others."""

from __future__ import annotations

import contextlib

import pytest
from asking import alone, finished

from ordito.engine.grammar import Grammar
from ordito.errors import OrditoError


def test_a_failing_runtime_fails_its_requests_only(engine, monkeypatch):
    step, left = engine.runtime.step, [2]

    def failing(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.runtime, "step", failing)
    engine.start()
    with pytest.raises(RuntimeError):
        finished(engine.submit("the loom", max_tokens=10, ignore_end=True))
    assert len(finished(engine.submit("the loom", max_tokens=10, ignore_end=True))[0].token_ids) == 10
    engine.close()


@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_grammar_that_cannot_be_followed_fails_its_own_request_only(model, engine, own_thread, n):
    expected = alone(model, "the loom", max_tokens=10, ignore_end=True)[0].token_ids
    if own_thread:
        engine.start()
    others = [engine.submit("the loom", max_tokens=10, ignore_end=True) for _ in range(2)]
    bad = engine.submit("the loom", grammar=Grammar("lark", 'start: "a" rest\nrest: rest'), max_tokens=10, n=n)
    with pytest.raises(OrditoError, match="too hard to follow"):
        finished(bad)
    assert [finished(other)[0].token_ids for other in others] == [expected] * 2
    assert list(bad.deltas()) == []
    assert engine.counts.failed == n
    engine.close()


@pytest.mark.parametrize("part", ["_enter", "_admit", "_batch"])
def test_the_thread_of_an_engine_outlives_any_failure(engine, monkeypatch, part):
    class Panic(BaseException):
        """Like a panic in Rust, which is not an `Exception`."""

    before, left = getattr(engine, part), [1]

    def failing(*arguments):
        if left[0] and (part != "_batch" or engine.running):
            left[0] -= 1
            raise ValueError if part == "_enter" else Panic
        return before(*arguments)

    monkeypatch.setattr(engine, part, failing)
    engine.start()
    with contextlib.suppress(RuntimeError):
        finished(engine.submit("the loom", max_tokens=3, ignore_end=True))
    assert left == [0]
    assert len(finished(engine.submit("the loom", max_tokens=3, ignore_end=True))[0].token_ids) == 3
    engine.close()
