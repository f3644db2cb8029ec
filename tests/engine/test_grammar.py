"""Grammars that are hard to compile."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_model import tiny_folder

from ordito import load
from ordito.engine.grammar import Grammar, Grammars


@pytest.fixture(scope="module")
def grammars(tmp_path_factory):
    return load(tiny_folder(tmp_path_factory.mktemp("tiny"), 64)).grammars


def schema(link, length):
    definitions = {str(place): link(f"#/$defs/{place + 1}") for place in range(length)}
    return {"$defs": {**definitions, str(length): {"type": "integer"}}, "$ref": "#/$defs/0"}


def chain(length, name, link):
    return "".join(f"{name}{place}: {link}{name}{place + 1}\n" for place in range(length)) + f'{name}{length}: "x"'


REFERENCES = schema(lambda next: {"$ref": next}, 5000)


# Each of these ended the process.
@pytest.mark.parametrize(
    "grammar",
    [
        Grammar.json_schema(REFERENCES),
        Grammar.json_schema(schema(lambda next: {"type": "object", "properties": {"x": {"$ref": next}}}, 3000)),
        Grammar("lark", f"start: %json {json.dumps(REFERENCES)}"),
        Grammar("lark", "start: a0\n" + chain(12_000, "a", "")),
        Grammar("lark", "start: A0\n" + chain(8000, "A", '"x" ')),
    ],
    ids=["references", "objects", "schema in rules", "rules", "terminals"],
)
def test_long_chains_are_followed(grammars, grammar):
    matcher = grammars.prepared(grammar)()
    assert matcher.allowed(grammars.vocab_size).any()
    grammars.compiled.clear()


@pytest.mark.parametrize("forward", [True, False])
def test_rules_in_any_order_are_read_in_linear_time(grammars, forward):
    links = [f"a{place} ::= a{place + 1}" for place in range(12_000)]
    rules = ["root ::= a0 b", 'b ::= "y" b | "z"', *links[:: 1 if forward else -1], 'a12000 ::= "x"']
    start = time.process_time()
    matcher = grammars.prepared(Grammar("gbnf", "\n".join(rules)))()
    assert time.process_time() - start < 10  # with one pass for each rule it took 38 s
    assert matcher.allowed(grammars.vocab_size).any()
    grammars.compiled.clear()


def test_an_answer_does_not_wait_until_another_grammar_is_compiled(grammars, monkeypatch):
    opened, reached, compiled = threading.Event(), threading.Event(), Grammars._compile

    def held(*arguments):
        reached.set()
        assert opened.wait(30)
        return compiled(*arguments)

    matcher = grammars.prepared(Grammar("regex", "loom"))
    monkeypatch.setattr(Grammars, "_compile", held)
    with ThreadPoolExecutor(2) as pool:
        try:
            other = pool.submit(grammars.prepared, Grammar("regex", "warp"))
            assert reached.wait(30)
            assert pool.submit(matcher).result(10).allowed(grammars.vocab_size).any()
        finally:
            opened.set()
        assert other.result()().allowed(grammars.vocab_size).any()
