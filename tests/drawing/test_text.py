"""The compact text of an architecture."""

from __future__ import annotations

import pytest

from ordito import catalogue
from ordito.drawing import draw
from ordito.drawing.text import COLUMNS, expression
from ordito.families import spec_from_config
from ordito.spec import Chain, Dense, Norm, Residual, Sum

NORM = Norm(name="some_norm", d_model=4, kind="rms", eps=1e-6)
A, B = (Dense(name=name, d_in=4, d_out=4) for name in "ab")


def text(name: str) -> str:
    entry = catalogue.find(name)
    return draw(spec_from_config(entry.config), titles=[entry.name]).text()


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (Residual(Chain(NORM, A)), "x + a(norm(x))"),
        (Residual(Chain(NORM, A, NORM)), "x + norm(a(norm(x)))"),
        (Residual(Chain(NORM, Sum(A, B))), "x + a(norm(x)) + b(norm(x))"),
        (Chain(Residual(A), NORM), "norm(x + a(x))"),
    ],
)
def test_expressions(block, expected):
    assert expression(block) == expected


def test_a_single_kind_of_layer_is_written_in_place():
    assert (
        text("SmolLM2 135M")
        == """SmolLM2 135M
134,515,008 parameters, 30 layers, d_model 576, context 8,192

embedding                 49,152 x 576
30 x [
  x + attention(norm(x))  Grouped-query attention: heads 9 query, 3 KV; head_dim 64; mask causal;
                          rope theta 100,000
  x + mlp(norm(x))        SwiGLU feed-forward: d_ff 1,536
  norm                    RMSNorm: eps 1e-05
]
norm                      RMSNorm: eps 1e-05
head                      576 -> 49,152; weight tied to embedding"""
    )


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Gemma 3 1B", "layers     4 x [5 A + 1 B] + 2 A"),
        ("Gemma 3 1B", "A: local (22 x 26.8M)"),
        ("DeepSeek-V3", "layers     3 A + 58 B"),
        ("DeepSeek-V3", "multi-token prediction, MTP (1 x 11.6B), not needed for inference"),
        ("DeepSeek-V3", "  norm(B(join([norm(embedding of the next token), norm(hidden state)])))"),
        ("Llama 4 Maverick 17B-128E", "layers     12 x [1 A + 1 B + 1 A + 1 C]"),
        ("T5 small", "A: encoder (6 x 3.15M)"),
        ("GPT-1", "  norm(x + attention(x))  Multi-head attention: heads 12; head_dim 64; mask causal; rope none;"),
    ],
)
def test_lines(name, line):
    assert line in text(name).splitlines()


@pytest.mark.parametrize("name", [entry.name for entry in catalogue.models() if entry.config])
def test_it_fits_a_terminal_in_plain_ascii(name):
    lines = text(name).splitlines()
    assert max(map(len, lines[2:])) <= COLUMNS
    assert text(name).isascii()
