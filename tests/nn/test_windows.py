"""Sliding-window layers cache little more than their windows, with the same results."""

from __future__ import annotations

import pytest
import torch

from ordito.families import spec_from_config
from ordito.nn import Transformer, cache, runtime

SIZES = {"vocab_size": 96, "hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 40}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 4096}
CONFIGS = {
    "windows": SIZES | {"model_type": "gemma3_text", "head_dim": 6, "sliding_window": 7, "query_pre_attn_scalar": 6},
    "windows everywhere": SIZES | {"model_type": "mistral", "sliding_window": 5},
    "none": SIZES | {"model_type": "llama"},
    "chunks": SIZES
    | {
        "model_type": "llama4_text",
        "head_dim": 8,
        "attention_chunk_size": 6,
        "num_local_experts": 2,
        "intermediate_size_mlp": 32,
    },
}
LENGTH = 90


@pytest.fixture(params=CONFIGS)
def module(request, monkeypatch):
    monkeypatch.setattr(cache, "MARGIN", 3)
    monkeypatch.setattr(runtime, "CHUNK", 8)
    torch.manual_seed(5)
    made = Transformer(spec_from_config(CONFIGS[request.param])).eval()
    for parameter in made.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return made


def ids(count=LENGTH, seed=1):
    return torch.randint(0, 96, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def expected(module, tokens):
    return module(torch.tensor([tokens]))[0, -1].numpy()


def test_windowed_cache_equals_no_cache(module):
    session, tokens, read = runtime.TorchSession(module), ids(), 0
    for piece in (30, 1, 1, 1, 17, 8, 1, 31):
        logits = session.feed(tokens[read : read + piece])
        read += piece
        assert logits == pytest.approx(expected(module, tokens[:read]), abs=1e-4)
    assert read == LENGTH == session.length


def test_size_of_a_windowed_cache(module):
    session = runtime.TorchSession(module)
    session.feed(ids())
    for span, pair in zip(session.cache.spans, session.cache.slots, strict=True):
        rooms = {store.shape[1] for store in pair}
        assert rooms == ({session.cache.capacity} if span is None else {span - 1 + 3 + 8})


@pytest.mark.parametrize("back", [1, 3, 20, 60, 89])
def test_rewinding(module, back):
    """The cache is truncated as requested, or emptied: never a state whose visible tokens are gone."""
    session, tokens = runtime.TorchSession(module), ids()
    session.feed(tokens)
    session.rewind(LENGTH - back)
    assert session.length in (LENGTH - back, 0)
    windowed = any(span is not None for span in session.cache.spans)
    if back <= 3 or not windowed:  # within the margin, or nothing was dropped
        assert session.length == LENGTH - back
    other = tokens[: LENGTH - back] + ids(12, seed=2)
    logits = session.feed(other[session.length :])
    assert logits == pytest.approx(expected(module, other), abs=1e-4)


def test_an_interrupted_forward_pass_is_undone(module, monkeypatch):
    session, tokens = runtime.TorchSession(module), ids()
    session.feed(tokens[:50])
    last = list(module.attentions)[-1]
    monkeypatch.setattr(type(last), "forward", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        session.feed(tokens[50:70])
    monkeypatch.undo()
    monkeypatch.setattr(cache, "MARGIN", 3)
    monkeypatch.setattr(runtime, "CHUNK", 8)
    assert session.length in (50, 0)
    logits = session.feed(tokens[session.length : 80])
    assert logits == pytest.approx(expected(module, tokens[:80]), abs=1e-4)
