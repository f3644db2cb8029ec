"""Layers as formulas, which show where norms stand."""

from __future__ import annotations

import pytest

from ordito import catalogue
from ordito.families import spec_from_config
from ordito.spec import Stack
from ordito.spec.formulas import formulas

EXPECTED = {
    "GPT-2 small": ["x + attention(norm(x))", "x + mlp(norm(x))"],
    "Phi-2": ["x + attention(norm(x)) + mlp(norm(x))"],
    "Gemma 2 2B": ["x + norm(attention(norm(x)))", "x + norm(mlp(norm(x)))"],
    "BERT base uncased": ["norm(x + attention(x))", "norm(x + mlp(x))"],
    "T5 small": ["x + attention(norm(x))", "x + cross_attention(norm(x))", "x + mlp(norm(x))"],
    "DeepSeek-V3": ["x + latent_attention(norm(x))", "x + experts(norm(x))"],
}


@pytest.mark.parametrize("name", EXPECTED)
def test_layers_as_formulas(name):
    spec = spec_from_config(catalogue.find(name).config)
    stack = next(part for part in spec.body.parts if isinstance(part, Stack))
    assert formulas(stack.layers[-1]) == EXPECTED[name]
