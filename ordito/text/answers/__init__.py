"""Parsing of answers, token by token, into text, reasoning and tool calls."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ordito.text.answers.channels import ChannelReader
from ordito.text.answers.marked import MarkedReader
from ordito.text.answers.parts import Answer, Arguments, Call, Part, Said, Thought, joined
from ordito.text.answers.reader import AnswerReader
from ordito.text.answers.style import PLAIN, Style, style_of
from ordito.text.tokenizer import Tokenizer

__all__ = [
    "PLAIN",
    "Answer",
    "AnswerReader",
    "Arguments",
    "Call",
    "Part",
    "Said",
    "Style",
    "Thought",
    "answer_reader",
    "joined",
    "style_of",
]


def answer_reader(
    tokenizer: Tokenizer,
    style: Style,
    *,
    thinking: bool | None = False,
    begun: bool = False,
    tools: Collection[str] | None = None,
    must_call: bool = False,
    stops: Sequence[str] = (),
) -> AnswerReader:
    """A parser of answers in a style.

    `thinking`: the prompt ends inside reasoning, None if the answer may begin with some; `begun`: it ends in the middle of the
    answer's text, or of its reasoning; `tools`: the names of the tools offered, or the schemas of their parameters by name;
    `must_call`: the answer must call one of them.
    """
    reader: AnswerReader
    if style.channels:
        reader = ChannelReader(tokenizer, begun=begun and not must_call, tools=tools, stops=stops)
    else:
        reader = MarkedReader(tokenizer, style, thinking=thinking, begun=begun, tools=tools, stops=stops)
    reader.silent = must_call
    return reader
