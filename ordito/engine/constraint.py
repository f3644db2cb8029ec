"""What constrains an answer: the grammar of a tool call, the caller's own grammar, or either."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ordito.engine.grammar import Grammar, Grammars, Matcher
from ordito.errors import OrditoError
from ordito.text.answers.rules import answer_rules, call_rules
from ordito.text.prompt import Prompt

Tools = Sequence[Mapping[str, Any]]


def call_of(tools: Tools, prompt: Prompt, grammars: Grammars) -> Callable[[], Matcher]:
    """What makes matchers of answers that call one of `tools`."""
    rules = call_rules(prompt.style, prompt.template, tools, lambda marker: _token(marker, grammars))
    return grammars.prepared(Grammar("calls", f"start: call\n{rules}"))


def answer_of(grammar: Grammar, tools: Tools, prompt: Prompt, grammars: Grammars) -> Callable[[], Matcher]:
    """What makes matchers of answers that `grammar` describes, or that call some of `tools` instead.

    Raises `OrditoError` for a grammar that cannot be used, and for anything else, such as a bare schema.
    """
    if not isinstance(grammar, Grammar):
        raise OrditoError(f"the grammar is of type {type(grammar).__name__}, expected a Grammar, as Grammar.json_schema makes")
    style, kind = prompt.style, prompt.style.tools
    # Without a token of its own, the beginning of a call could as well be that of the answer.
    marked = style.channels or (kind is not None and not kind.bare and _token(kind.begin[0], grammars)[0] == "<")
    offered = tools if marked else ()
    if prompt.begun or not (offered or style.channels):
        return grammars.prepared(grammar)

    def around(some: Tools) -> Callable[[], Matcher]:
        rules = answer_rules(style, prompt.template, some, lambda marker: _token(marker, grammars))
        return grammars.prepared(replace(grammar, around=rules))

    try:
        return around(offered)
    except OrditoError:  # a tool's schema may be more than can be followed
        return around(())


def _token(marker: str, grammars: Grammars) -> str:
    """A marker in rules: the token, or text where it is none."""
    id, vocabulary = grammars.tokenizer.id_of(marker), grammars.tokenizer.vocabulary
    return f"<[{id}]>" if id in vocabulary.control | vocabulary.added else json.dumps(marker, ensure_ascii=False)
