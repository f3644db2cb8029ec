"""Common record formats, read as conversations."""

from __future__ import annotations

import json

import pytest

from ordito.errors import OrditoError, TemplateError
from ordito.train.data.formats import conversation_of, text_of

ASKED = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
CALL = {"name": "add", "arguments": {"a": 2, "b": 2}}
TOOL = {"type": "function", "function": {"name": "add", "description": "a sum"}}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": ASKED},
        {"conversations": ASKED},
        {"conversation": ASKED},
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"instruction": "2 + 2?", "input": "", "output": "4"},
        {"instruction": "2 + 2?", "output": "4"},
        {"prompt": "2 + 2?", "completion": "4"},
        {"prompt": ASKED[:1], "completion": ASKED[1:]},
        {"question": "2 + 2?", "answer": "4"},
        {"prompt": "2 + 2?", "response": "4", "source": "arithmetic"},
    ],
    ids=lambda record: "-".join(record),
)
def test_the_same_conversation_in_every_format(record):
    assert conversation_of(record) == (ASKED, None)


def test_alpaca_with_an_input_and_turns_before():
    record = {"instruction": "Translate.", "input": "ordito", "output": "warp", "history": [["Ciao", "Hello"]]}
    messages, _ = conversation_of(record)
    assert [message["content"] for message in messages] == ["Ciao", "Hello", "Translate.\n\nordito", "warp"]


def test_a_system_field_becomes_the_first_message():
    for record in ({"messages": ASKED, "system": "Be brief."}, {"conversations": ASKED, "system": "Be brief."}):
        assert conversation_of(record)[0] == [{"role": "system", "content": "Be brief."}, *ASKED]


def test_sharegpt_tool_calls_and_tools():
    turns = [("human", "2 + 2?"), ("function_call", json.dumps(CALL)), ("observation", "4"), ("gpt", "It is 4.")]
    record = {"conversations": [{"from": who, "value": what} for who, what in turns], "tools": json.dumps([TOOL["function"]])}
    messages, tools = conversation_of(record)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "assistant"]
    assert messages[1]["tool_calls"] == [{"type": "function", "function": CALL}]
    assert tools == [TOOL]


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), [TOOL["function"]]], ids=["list", "json", "bare"])
def test_formats_of_tools(tools):
    assert conversation_of({"messages": ASKED, "tools": tools}) == (ASKED, [TOOL])


@pytest.mark.parametrize("tools", [None, "", []])
def test_no_tools(tools):
    assert conversation_of({"messages": ASKED, "tools": tools})[1] is None


def test_further_fields_of_messages_are_kept():
    weighted = [ASKED[0], ASKED[1] | {"weight": 0}]
    assert conversation_of({"messages": weighted})[0] == weighted
    shared = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y", "weight": 0}]
    assert conversation_of({"conversations": shared})[0][1] == {"role": "assistant", "content": "y", "weight": 0}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"body": "x", "title": "y"}, "is no conversation: it has body, title, expected messages or conversations"),
        ({}, "it has no fields"),
        ({"prompt": 5, "completion": "4"}, "prompt must be a string or a list of messages, got int"),
        (
            {"conversations": [{"from": "narrator", "value": "x"}]},
            r"conversations\[0\]: is from 'narrator', expected one of human",
        ),
        ({"conversations": [{"from": ["x"], "value": "x"}]}, "is from"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, r"conversations\[0\]: a function_call must be JSON"),
        ({"messages": ASKED, "tools": "{"}, "tools must be JSON"),
        ({"instruction": "x", "output": "y", "history": ["z"]}, r"history\[0\] must be a question and its answer"),
    ],
)
def test_records_that_are_not_conversations(record, said):
    with pytest.raises(OrditoError, match=said):
        conversation_of(record)


@pytest.mark.parametrize("messages", [[], [5], [{"role": "wizard", "content": "x"}], [{"role": "user"}], [{"from": "human"}]])
def test_invalid_messages(messages):
    with pytest.raises(TemplateError):
        conversation_of({"messages": messages})


def test_texts():
    assert text_of({"text": "warp"}) == "warp"
    assert text_of({"body": "weft"}, "body") == "weft"
    with pytest.raises(OrditoError, match="has no text under 'text', only body, n"):
        text_of({"body": "weft", "n": 1})
