"""A call that `max_tokens` cuts shows neither markers nor half of its JSON as text."""

from __future__ import annotations

import json

import pytest
from serving import events

from ordito.serve.ollama import whole_calls

HI = [{"role": "user", "content": "the loom"}]
PARAMETERS = {"type": "object", "properties": {"turns": {"enum": [1, 2]}}, "required": ["turns"]}
TOOL = {"name": "spin", "parameters": PARAMETERS}
LENGTHS = [1, 5, 12, 20, 27, 40]
"""Limits that end inside the marker, after it, before the name, inside it, and in the arguments: most tokens are single letters."""


@pytest.mark.parametrize("length", LENGTHS)
def test_openai(client, length):
    tools = [{"type": "function", "function": TOOL}]
    body = {"messages": HI, "tools": tools, "tool_choice": "required", "max_tokens": length, "temperature": 0}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert not choice["message"]["content"]
    calls = choice["message"].get("tool_calls", [])
    assert [call["function"]["name"] for call in calls] == ["spin"] * (length > 24)
    sent = [json.loads(data) for _, data in events(client.post("/v1/chat/completions", json={**body, "stream": True}))[:-1]]
    deltas = [chunk["choices"][0]["delta"] for chunk in sent]
    assert not any(delta.get("content") for delta in deltas)
    assert sent[-1]["choices"][0]["finish_reason"] == "length"
    written = "".join(call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", []))
    assert written == "".join(call["function"]["arguments"] for call in calls)


@pytest.mark.parametrize("length", LENGTHS)
def test_anthropic(client, length):
    tools = [{"name": "spin", "input_schema": PARAMETERS}]
    body = {"messages": HI, "tools": tools, "tool_choice": {"type": "any"}, "max_tokens": length, "temperature": 0}
    answer = client.post("/v1/messages", json=body).json()
    assert answer["stop_reason"] == "max_tokens"
    assert not any(block.get("text") for block in answer["content"])


@pytest.mark.parametrize("length", LENGTHS)
def test_responses(client, length):
    body = {
        "input": "the loom",
        "tools": [{"type": "function", **TOOL}],
        "tool_choice": "required",
        "max_output_tokens": length,
        "temperature": 0,
    }
    whole = client.post("/v1/responses", json=body).json()
    *_, (_, last) = events(client.post("/v1/responses", json={**body, "stream": True}))
    for answer in (whole, json.loads(last)["response"]):
        (item,) = answer["output"]
        assert answer["status"] == item["status"] == "incomplete"
        assert item["type"] == ("function_call" if length > 24 else "message")
        assert not any(part["text"] for part in item.get("content", []))


def test_a_call_that_was_not_forced(client):
    """After the whole marker only a call can follow, so nothing is text; the beginning of a marker is text."""
    for length, text in ((5, "<tool"), (20, "")):
        body = {
            "messages": HI,
            "tools": [{"type": "function", "function": TOOL}],
            "guided_regex": r'<tool_call>\n\{"name": "spin", "arguments": \{"turns": 1\}\}\n</tool_call>',
            "max_tokens": length,
        }
        message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert message["content"] == text


def test_ollama_shows_whole_calls_only():
    made = [("1", "spin", '{"turns": 1}'), ("2", "spin", '{"tu'), ("3", "spin", "")]
    assert whole_calls(made) == [{"id": "1", "function": {"name": "spin", "arguments": {"turns": 1}}}]
