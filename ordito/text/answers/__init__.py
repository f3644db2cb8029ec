"""What a model writes -> what it says, thinks and calls, as it comes, token by token."""

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
    thinking: bool = False,
    begun: bool = False,
    tools: Collection[str] | None = None,
    must_call: bool = False,
    stops: Sequence[str] = (),
) -> AnswerReader:
    """What reads answers of a style. `thinking`: the prompt ended inside a thought; `begun`: in the middle of what is said, or
    of that thought; `tools`: the names that were offered, one of which the answer may have to call."""
    reader: AnswerReader
    if style.channels:
        reader = ChannelReader(tokenizer, begun=begun, tools=tools, stops=stops)
    else:
        reader = MarkedReader(tokenizer, style, thinking=thinking, begun=begun, tools=tools, stops=stops)
    reader.silent = must_call
    return reader
