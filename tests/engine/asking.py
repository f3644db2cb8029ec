"""What the tests of the engine ask, and how they wait for answers."""

from __future__ import annotations

from ordito.engine.engine import Engine

PROMPTS = ["the loom", "the warp and", "a weft", "warp warp warp warp", "the loom of the", "x"]


def finished(stream):
    for _ in stream.deltas():
        pass
    return stream.results


def alone(model, prompt, **settings):
    return finished(Engine(model).submit(prompt, speculate=False, **settings))
