"""What is recorded inside of our models is what transformers shows of its own: attention, and the stream after each layer."""

from __future__ import annotations

import pytest
import torch
from tiny import CASES, SOURCE, answers, error, saved, token_ids

import ordito
from ordito.lens.record import guesses, record

LENGTH = 24


@pytest.fixture(scope="module", params=CASES)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lens")
    model = saved(request.param, folder)
    ids = token_ids(LENGTH)
    inputs = {"input_ids": SOURCE, "decoder_input_ids": ids} if answers(model) else {"input_ids": ids}
    with torch.no_grad():
        theirs = model(**inputs, output_attentions=True, output_hidden_states=True)
    module = ordito.load(folder).runtime.module
    ours = record(module, ids[0].tolist(), SOURCE[0].tolist() if answers(model) else None)
    return module, ours, theirs


def layers(ours):
    """The stream after each layer of the decoder, or of the one stack that there is."""
    stack = "layers." if any(path.startswith("layers.") for path in ours.layers) else ""
    return [values for path, values in ours.layers.items() if path.startswith(stack)]


def test_attention(both):
    _, ours, theirs = both
    if "decoder_attentions" in theirs:
        expected = [*theirs.encoder_attentions, *theirs.decoder_attentions, *theirs.cross_attentions]
        kinds = [("encoder.", ".attention"), ("layers.", ".attention"), ("layers.", ".cross")]
    else:
        expected, kinds = theirs.attentions, [("", "")]
    found = [
        weights
        for stack, end in kinds
        for path, weights in ours.attention.items()
        if path.startswith(stack) and path.endswith(end)
    ]
    for own, other in zip(found, expected, strict=True):
        assert error(torch.from_numpy(own), other[0].float()) <= 1e-5


def test_the_stream_after_each_layer(both):
    _, ours, theirs = both
    states = theirs.decoder_hidden_states if "decoder_hidden_states" in theirs else theirs.hidden_states
    for own, other in zip(layers(ours)[:-1], states[1:-1], strict=True):  # the last one is shown after its norm
        assert error(torch.from_numpy(own), other[0]) <= 1e-5


def test_what_would_be_said_after_the_last_layer_is_said(both):
    module, ours, theirs = both
    if module.spec.head is not None:
        last = layers(ours)[-1]
        assert error(torch.from_numpy(guesses(module, last)), torch.from_numpy(ours.logits)) <= 1e-5
        assert error(torch.from_numpy(ours.logits), theirs.logits[0]) <= 1e-5
