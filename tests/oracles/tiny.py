"""Tiny random models made by transformers: every special feature on, no weight neutral, odd sizes."""

from __future__ import annotations

import copy
import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from sizes import VOCAB

from ordito import families
from ordito.checkpoint.export import write_folder
from ordito.spec import Spec

Case = tuple[str, str, dict[str, Any]]

CASES: dict[str, Case] = {}
for _file in sorted(Path(__file__).parent.glob("cases_*.py")):
    CASES |= importlib.import_module(_file.stem).CASES
"""Name -> (class, class of its config, config), from the file of each family beside this one."""


def make(name: str, **changes: Any) -> Any:
    """The transformers model of a case, with seeded weights in which nothing is neutral."""
    kind, config_kind, config = CASES[name]
    made = getattr(transformers, config_kind)(**copy.deepcopy(config) | changes)
    made._attn_implementation = "eager"
    model = getattr(transformers, kind)(made)
    generator = torch.Generator().manual_seed(7)
    stored = model.state_dict()
    buffers = {key: buffer for key, buffer in model.named_buffers() if key in stored and buffer.is_floating_point()}
    for key, parameter in sorted((dict(model.named_parameters()) | buffers).items()):
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data.add_(0.3 * noise)
        else:
            # T5 does not scale its scores: its queries must be small, or a softmax of one makes rounding errors large.
            scale = (
                1.0 if "embed" in key else 1.5 * parameter.shape[-1] ** -0.5 * (0.2 if key.endswith("ention.q.weight") else 1)
            )
            parameter.data.copy_(noise * scale)
    model.tie_weights()
    return model.eval()


@functools.cache
def spec_of(name: str) -> Spec:
    """The spec of a case. Models may change their configuration as they are made; here without values, which are not needed."""
    kind, config_kind, config = CASES[name]
    with torch.device("meta"):
        model = getattr(transformers, kind)(getattr(transformers, config_kind)(**copy.deepcopy(config)))
    return families.spec_from_config(model.config.to_dict() | {"architectures": [kind]})


def saved(name: str, folder: Path, **changes: Any) -> Any:
    """The model of a case, also written to `folder` as transformers writes it."""
    model = make(name, **changes)
    model.save_pretrained(folder)
    return model


def token_ids(length: int, batch: int = 1, seed: int = 1) -> torch.Tensor:
    """Random token ids, (batch, length)."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def gradients_as_theirs(module: Any, checkpoint: Any, theirs: Any, folder: Path) -> dict[str, torch.Tensor]:
    """The gradients of our module by transformers' names: they go the way of weights, written and read as a model of theirs."""
    shapes, grads = checkpoint.spec.tensors(), {key: parameter.grad for key, parameter in module.named_parameters()}
    arrays = {key: np.zeros(shapes[key], np.float32) if grad is None else grad.numpy() for key, grad in grads.items()}
    write_folder(folder, checkpoint.spec, arrays)
    return {key: parameter.detach() for key, parameter in type(theirs).from_pretrained(folder).named_parameters()}


def answers(model: Any) -> bool:
    """Whether the model has an encoder and a decoder."""
    return bool(model.config.is_encoder_decoder and not type(model).__name__.endswith("EncoderModel"))


SOURCE = token_ids(17, seed=5)
"""What the tests give to encoders."""


def output(model: Any, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Logits, or hidden states of a model without a head; of a decoder that answers `SOURCE`."""
    if answers(model):
        source = SOURCE.expand(ids.shape[0], -1)
        inputs = {"input_ids": source, "decoder_input_ids": ids} | {f"decoder_{key}": value for key, value in inputs.items()}
    else:
        inputs = {"input_ids": ids} | inputs
    with torch.no_grad():
        result = model(**inputs)
    return result.logits if hasattr(result, "logits") else result.last_hidden_state


def error(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value; NaN if anything is."""
    assert got.shape == expected.shape, f"{tuple(got.shape)} is not {tuple(expected.shape)}"
    return float((got - expected).abs().max() / expected.abs().max())
