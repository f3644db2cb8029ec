"""Absurd values in GGUF headers and configurations are refused in one sentence."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest

from ordito.errors import ConfigError
from ordito.families import header_from_spec, spec_from_config, spec_from_header

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA = {"model_type": "llama", "intermediate_size": 40, "max_position_embeddings": 64, **SIZES}
GEMMA = LLAMA | {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 16}
LONG = {"rope_type": "longrope", "short_factor": [1, 2, 3, 4], "long_factor": [1, 2, 3, 4]}
PHI3 = LLAMA | {"model_type": "phi3", "pad_token_id": 0, "rope_parameters": LONG | {"original_max_position_embeddings": 32}}

METADATA = {
    "empty array": (LLAMA, "llama.attention.value_length", np.array([], np.uint32), "value_length is \\[\\]"),
    "array": (LLAMA, "llama.context_length", np.array([1, 2], np.uint32), "context_length is \\[1, 2\\]"),
    "long label": (LLAMA, "general.architecture", "a" * 1000, "is 'a{70,80}\\.\\.\\., which no family"),
    "pattern of 0": (GEMMA, "gemma3.attention.sliding_window_pattern", 0, "pattern is 0, expected a whole number from 1"),
    "pattern of text": (GEMMA, "gemma3.attention.sliding_window_pattern", "x", "pattern is 'x', expected a whole number"),
    "pattern of 1.5": (GEMMA, "gemma3.attention.sliding_window_pattern", 1.5, "pattern is 1.5, expected a whole number"),
    "short pattern": (
        GEMMA,
        "gemma3.attention.sliding_window_pattern",
        np.array([True]),
        "pattern is \\[True\\], expected 2 flags",
    ),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name):
    config, key, value, told = METADATA[name]
    header = header_from_spec(spec_from_config(config))
    with pytest.raises(ConfigError, match=told):
        spec_from_header(replace(header, metadata={**header.metadata, key: value}))


def test_a_vocabulary_without_rows():
    header = header_from_spec(spec_from_config(LLAMA))
    with pytest.raises(ConfigError, match="token_embd.weight has shape \\(\\), expected \\(vocabulary, width\\)"):
        spec_from_header(replace(header, shapes={**header.shapes, "token_embd.weight": ()}))


@pytest.mark.parametrize(
    ("shape", "values", "told"),
    [
        ((4,), [1, 2, 3, 0], "holds \\(1, 2, 3, 0\\)"),
        ((4,), [1, 2, 3, nan], "nan\\), expected finite"),
        ((4,), [1, 2, 3, inf], "expected finite"),
        ((0,), [], "shape \\(0,\\), expected \\(4,\\)"),
        ((2, 2), [1, 2, 3, 4], "shape \\(2, 2\\)"),
        ((1 << 40,), None, "shape \\(1099511627776,\\)"),
    ],
)
def test_divisors_of_frequencies(shape, values, told):
    header = header_from_spec(spec_from_config(LLAMA))
    with pytest.raises(ConfigError, match=f"rope_freqs.weight .*{told}"):
        spec_from_header(
            replace(header, shapes={**header.shapes, "rope_freqs.weight": shape}, values={"rope_freqs.weight": values}.get)
        )


def test_long_factors_without_short_ones():
    header = header_from_spec(spec_from_config(PHI3))
    shapes = {name: shape for name, shape in header.shapes.items() if name != "rope_factors_short.weight"}
    with pytest.raises(ConfigError, match="rope_factors_short.weight is missing"):
        spec_from_header(replace(header, shapes=shapes))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"long_factor": ["x"] * 4}, "long_factor is .*, expected a list of finite numbers above zero"),
        ({"short_factor": [[1]]}, "short_factor is .*, expected a list of finite numbers above zero"),
        ({"short_factor": [10**400]}, "short_factor is .*, expected a list of finite numbers above zero"),
        ({"original_max_position_embeddings": 1}, "original_max_position_embeddings is 1, expected at least 2"),
    ],
)
def test_longrope(change, told):
    with pytest.raises(ConfigError, match=told):
        spec_from_config(PHI3 | {"rope_parameters": PHI3["rope_parameters"] | change})
