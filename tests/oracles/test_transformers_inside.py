"""Recorded activations of tiny models are those of transformers: residual stream, attention, routers, logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import CASES, SOURCE, answers, error, saved, token_ids

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.lens import record
from ordito.nn.runtime import load_transformer
from ordito.spec import Head, MixtureOfExperts, Stack

TOLERANCE = 1e-5
LENGTH = 24


def both(name, folder):
    """A model as ours and as transformers', and what each is given."""
    theirs = saved(name, folder)
    ids = token_ids(LENGTH)
    inputs = {"input_ids": SOURCE, "decoder_input_ids": ids} if answers(theirs) else {"input_ids": ids}
    ours = [ids[0].tolist(), SOURCE[0].tolist() if answers(theirs) else None]
    return load_transformer(open_checkpoint(folder)), ours, theirs, inputs


def close(got, expected):
    assert error(torch.from_numpy(np.ascontiguousarray(got)), expected) <= TOLERANCE


def held_stream(recording, block, hidden_states):
    """The stream before each layer; what transformers lists last has been through the last norm, where there is one."""
    stack, last = next(part for part in block.parts if isinstance(part, Stack)), block.parts[-1]
    assert len(hidden_states) == 1 + len(stack.layers)
    for layer, expected in enumerate(hidden_states[:-1]):
        close(recording[f"{stack.name}.{layer}", "input"], expected[0])
    path = f"{stack.name}.{len(stack.layers) - 1}" if last is stack else last.name
    close(recording[path, "output"], hidden_states[-1][0])


def held_weights(recording, paths, attentions):
    assert len(paths) == len(attentions)
    for path, expected in zip(paths, attentions, strict=True):
        close(recording[path, "weights"], expected[0].transpose(0, 1))


@pytest.mark.parametrize("name", CASES)
def test_recorded_activations_are_those_of_transformers(name, tmp_path):
    module, ours, theirs, inputs = both(name, tmp_path)
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True, output_attentions=True)
    recording, spec = record(module, *ours), module.spec
    crossing = [path for path, leaf in spec.attentions if getattr(leaf, "cross", False)]
    paths = [path for path, _ in spec.attentions if path not in crossing]
    if spec.encoder is None:
        held_stream(recording, spec.body, expected.hidden_states)
        held_weights(recording, paths, expected.attentions)
    else:
        held_stream(recording, spec.body, expected.decoder_hidden_states)
        held_stream(recording.source, spec.encoder, expected.encoder_hidden_states)
        held_weights(recording, paths, expected.decoder_attentions)
        held_weights(recording, crossing, expected.cross_attentions)
        of_source = [path for path, leaf in spec.leaves() if path.startswith("encoder.") and path.endswith(".attention")]
        held_weights(recording.source, of_source, expected.encoder_attentions)
    for path, leaf in spec.leaves():
        if isinstance(leaf, Head):
            close(recording[path, "output"], expected.logits[0])


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss", "deepseek3"])
def test_routers_choose_what_those_of_transformers_choose(name, tmp_path):
    module, ours, theirs, inputs = both(name, tmp_path)
    recording = record(module, *ours)
    routed = []
    for layer in theirs.model.layers:
        router = getattr(layer.mlp, "router", None) or getattr(layer.mlp, "gate", None)
        if hasattr(layer.mlp, "experts"):
            router.register_forward_hook(lambda router, inputs, outputs: routed.append(outputs[1:]))
    with torch.no_grad():
        theirs(**inputs)
    paths = [path for path, leaf in module.spec.leaves() if isinstance(leaf, MixtureOfExperts)]
    assert len(paths) == len(routed) > 0
    for path, (weights_TK, experts_TK) in zip(paths, routed, strict=True):
        ours, order = recording[f"{path}.router", "experts"].argsort(axis=1), experts_TK.argsort(dim=1)
        close(np.take_along_axis(recording[f"{path}.router", "weights"], ours, axis=1), weights_TK.gather(1, order))
        assert (
            np.take_along_axis(recording[f"{path}.router", "experts"], ours, axis=1) == experts_TK.gather(1, order).numpy()
        ).all()


@pytest.mark.parametrize("name", ["llama", "gemma2", "deepseek3", "gpt_oss", "bert", "phi", "t5", "mixtral"])
def test_some_positions_are_recorded_as_all_are(name, tmp_path):
    module, ours, _, _ = both(name, tmp_path)
    whole, some = record(module, *ours), record(module, *ours, positions=[17, 3])
    assert whole.keys() == some.keys()
    crossing = tuple(path for path, leaf in module.spec.attentions if getattr(leaf, "cross", False))
    for (path, what), array in some.items():
        of_source = path.startswith(crossing or ("-",)) and (what in "kv" or path.endswith((".k", ".v")))
        expected = whole[path, what] if of_source or path == "pooler" else whole[path, what][[17, 3]]
        assert np.abs(array - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max()), (path, what)
