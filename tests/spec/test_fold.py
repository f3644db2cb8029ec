"""Folding: the repeating pattern of a stack's layers."""

import time

import pytest

from ordito import catalogue
from ordito.families import spec_from_config
from ordito.spec import Attention, Block, Chain, Norm, RelativeBias, Residual, Stack
from ordito.spec.combinators import Parts
from ordito.spec.fold import Group, alike, fold


def layers(pattern: str) -> list[Block]:
    return [Norm(d_model=2, kind="rms", eps=ord(letter)) for letter in pattern]


def shape(groups: tuple[Group, ...]) -> list[tuple[int, list[int]]]:
    return [(group.times, [run.times for run in group.runs]) for group in groups]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", []),
        ("a", [(1, [1])]),
        ("aaaa", [(1, [4])]),
        ("ab", [(1, [1]), (1, [1])]),
        ("abab", [(2, [1, 1])]),
        ("aaab", [(1, [3]), (1, [1])]),
        ("aaab" * 3, [(3, [3, 1])]),
        ("aaaaab" * 4 + "aa", [(4, [5, 1]), (1, [2])]),
        ("d" * 3 + "m" * 58, [(1, [3]), (1, [58])]),
        ("abac" * 12, [(12, [1, 1, 1, 1])]),
        ("x" + "aab" * 7, [(1, [1]), (7, [2, 1])]),
    ],
)
def test_patterns(pattern, expected):
    assert shape(fold(layers(pattern))) == expected


@pytest.mark.parametrize("pattern", ["aaaaab" * 4 + "aa", "xaabaab", "abcabcab", "abba" * 5 + "ab"])
def test_unfolding_gives_the_layers_back(pattern):
    stack = layers(pattern)
    again = [run.layer for group in fold(stack) for _ in range(group.times) for run in group.runs for _ in range(run.times)]
    assert again == stack


def test_numbers_are_those_of_the_stack():
    groups = fold(layers("ddd" + "aab" * 5 + "c"))
    assert [(group.first, group.period, group.n_layers) for group in groups] == [(0, 3, 3), (3, 3, 15), (18, 1, 1)]
    assert [run.first for run in groups[1].runs] == [3, 5]


def test_sharing_the_table_of_a_relative_bias_is_ignored():
    def layer(shared: bool) -> Block:
        bias = RelativeBias(n_buckets=32, max_distance=128, shared=shared)
        attention = Attention(d_model=8, n_heads=2, n_kv_heads=2, head_dim=4, scale=1.0, relative_bias=bias)
        return Chain(Residual(Chain(Norm(d_model=8, kind="rms", eps=1e-6), attention)))

    assert layer(True) != layer(False)
    assert alike(layer(True)) == alike(layer(False)) == layer(False)
    assert shape(fold([layer(False), layer(True), layer(True)])) == [(1, [3])]


def stacks(block: Block) -> list[Stack]:
    if isinstance(block, Stack):
        return [block]
    return [stack for part in block.parts for stack in stacks(part)] if isinstance(block, Parts) else []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("GPT-2 small", [(1, [12])]),
        ("GPT-3 175B", [(48, [1, 1])]),
        ("Gemma 2 2B", [(13, [1, 1])]),
        ("Gemma 3 1B", [(4, [5, 1]), (1, [2])]),
        ("Gemma 3 27B", [(10, [5, 1]), (1, [2])]),
        ("gpt-oss-120b", [(18, [1, 1])]),
        ("DeepSeek-V3", [(1, [3]), (1, [58])]),
        ("Llama 4 Scout 17B-16E", [(12, [3, 1])]),
        ("Llama 4 Maverick 17B-128E", [(12, [1, 1, 1, 1])]),
        ("Phi-3-small 8k", [(16, [1, 1])]),
        ("ModernBERT base", [(1, [1]), (7, [2, 1])]),
        ("T5 small", [(1, [6])]),
    ],
)
def test_published_models(name, expected):
    (stack,) = stacks(spec_from_config(catalogue.find(name).config).body)
    assert shape(fold(stack.layers)) == expected


@pytest.mark.parametrize("pattern", [list(range(10_000)), [0] * 10_000, ([0] * 200 + [1]) * 50])
def test_folding_takes_linear_time(pattern):
    stack = [Norm(d_model=2, kind="rms", eps=float(kind)) for kind in pattern]
    start = time.perf_counter()
    groups = fold(stack)
    assert time.perf_counter() - start < 5
    assert sum(group.n_layers for group in groups) == len(stack)
