"""The arithmetic that a model is computed in unless another one is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ordito import catalogue
from ordito.families import spec_from_config
from ordito.native.arithmetic import default_dtype
from ordito.spec import Pooling


def published(name):
    return spec_from_config(catalogue.find(name).config)


@pytest.mark.parametrize(
    ("name", "encodings", "expected"),
    [
        ("Qwen3 0.6B", {"q4_k", "f32"}, "int12"),
        ("Qwen3 0.6B", {"bf16"}, "int12"),
        ("Qwen3 0.6B", {"f32"}, "float32"),
        ("Llama 3.2 1B", {"q4_k", "f32"}, "int8"),
        ("Llama 3.2 1B", {"bf16"}, "int8"),
        ("Llama 3.2 1B", {"f32"}, "float32"),
        ("Mixtral 8x7B v0.1", {"q4_k", "f32"}, "int8"),
    ],
)
def test_large_models_are_computed_in_8_bits_and_fp32_files_as_they_are(name, encodings, expected):
    assert default_dtype(published(name), encodings) == expected


def test_embedders_in_fp32_are_not_computed_in_fp32():
    spec = published("bert-base-uncased")
    assert default_dtype(spec, {"f32"}) == "float32"
    assert default_dtype(replace(spec, pooling=Pooling(kind="mean")), {"f32"}) == "int12"
