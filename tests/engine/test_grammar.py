"""Grammars that are hard to compile."""

from __future__ import annotations

import json

import pytest
from tiny_model import tiny_folder

from ordito import load
from ordito.engine.grammar import Grammar


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
    assert matcher.allowed(256).any()
    grammars.compiled.clear()
