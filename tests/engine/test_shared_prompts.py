"""Prompts that begin alike are read once."""

from __future__ import annotations

from asking import alone, finished


def test_the_prefix_cache_is_used(model, engine):
    prompt = "the warp and the weft of a loom"
    first, second = (finished(engine.submit(prompt, max_tokens=6))[0] for _ in range(2))
    assert first.cached_tokens == 0
    assert second.cached_tokens == second.prompt_tokens - 1
    assert second.token_ids == first.token_ids
    assert second.missed == ""
    other = finished(engine.submit("the warp and a loom", max_tokens=6))[0]
    assert 0 < other.cached_tokens < other.prompt_tokens - 1
    assert f"token {other.cached_tokens} is" in other.missed
    assert other.token_ids == alone(model, "the warp and a loom", max_tokens=6)[0].token_ids


def test_users_do_not_share_the_prefix_cache(engine):
    finished(engine.submit("the warp and the weft", max_tokens=2, user="a"))
    assert finished(engine.submit("the warp and the weft", max_tokens=2, user="b"))[0].cached_tokens == 0
    assert finished(engine.submit("the warp and the weft", max_tokens=2, user="a"))[0].cached_tokens > 0


def test_a_prompt_is_shared_with_one_that_is_still_answered(engine):
    first = engine.submit("the warp and the weft", max_tokens=20, ignore_end=True)
    for _ in range(3):
        engine.step()
    second = finished(engine.submit("the warp and the weft", max_tokens=2))[0]
    assert second.cached_tokens == second.prompt_tokens - 1
    assert finished(first)[0].token_ids[:2] == second.token_ids


def test_prompts_that_arrive_together_are_read_once(model, engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 20)  # so that the prefill takes several steps
    monkeypatch.setattr("ordito.engine.engine.SHARED", 20)
    prefix = "warp and the loom weft x " * 6
    ends = ["", "", "a", "the weft", "x"]
    streams = [engine.submit(prefix + end, max_tokens=6) for end in ends]
    other = engine.submit("a weft", max_tokens=3)
    stranger = engine.submit(prefix, max_tokens=3, user="stranger")
    engine.step()
    # The first of the alike, and those that have nothing to wait for.
    assert [one.box for one in engine.running] == [streams[0].box, stranger.box, other.box]
    shared = len(model.tokenizer.encode(prefix))
    for number, (end, stream) in enumerate(zip(ends, streams, strict=True)):
        (result,) = finished(stream)
        assert result.token_ids == alone(model, prefix + end, max_tokens=6)[0].token_ids
        assert (result.cached_tokens > shared - 5) == (number > 0)
    assert finished(stranger)[0].cached_tokens == 0
    assert finished(other)
    assert engine.idle


def test_whoever_waits_for_a_prefill_that_is_cancelled_goes_on(engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.SHARED", 20)
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 20)
    first, second = (engine.submit("warp and the loom weft x " * 6, max_tokens=4) for _ in range(2))
    engine.step()
    assert len(engine.running) == 1
    first.cancel()
    assert finished(second)[0].finish_reason in ("stop", "length")
