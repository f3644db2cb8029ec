"""A conversation that ends in the middle of an answer goes on there, where the dialect says so."""

from __future__ import annotations

import json

import pytest
from serving import events

ASKED = [{"role": "user", "content": "the loom"}, {"role": "assistant", "content": "the warp and"}]
WRITTEN = "<|im_start|>user\nthe loom<|im_end|>\n<|im_start|>assistant\nthe warp and"


@pytest.fixture
def continued(client):
    """What the model writes after it, and the number of tokens in the prompt."""
    body = {"prompt": WRITTEN, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/completions", json=body).json()
    return answer["choices"][0]["text"], answer["usage"]["prompt_tokens"]


def test_openai(client, continued):
    body = {"messages": ASKED, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "continue_final_message": True}
    for more in ({}, {"add_generation_prompt": False}):
        answer = client.post("/v1/chat/completions", json={**body, **more})
        assert "x-ignored-params" not in answer.headers
        answer = answer.json()
        assert (answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]) == continued
    sent = [json.loads(data) for _, data in events(client.post("/v1/chat/completions", json={**body, "stream": True}))[:-1]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in sent) == continued[0]
    anew = client.post("/v1/chat/completions", json={**body, "continue_final_message": False}).json()
    assert anew["usage"]["prompt_tokens"] > continued[1]


def test_anthropic(client, continued):
    body = {"messages": ASKED, "max_tokens": 8, "temperature": 0}
    answer = client.post("/v1/messages", json=body).json()
    assert continued[0].startswith(answer["content"][0]["text"])  # all of it, unless the model ends its turn
    assert answer["content"][0]["text"]
    used = answer["usage"]
    assert used["input_tokens"] + used["cache_read_input_tokens"] == continued[1]
    assert client.post("/v1/messages/count_tokens", json={"messages": ASKED}).json()["input_tokens"] == continued[1]
    blocks = [ASKED[0], {"role": "assistant", "content": [{"type": "text", "text": "the warp and"}]}]
    assert client.post("/v1/messages", json={**body, "messages": blocks}).json()["content"] == answer["content"]


def test_ollama(client, continued):
    body = {"model": "x", "messages": ASKED, "stream": False, "options": {"temperature": 0, "num_predict": 8}}
    answer = client.post("/api/chat", json=body).json()
    assert continued[0].startswith(answer["message"]["content"])
    assert answer["prompt_eval_count"] == continued[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"add_generation_prompt": True}, "begins a new one"),
        ({"continue_final_message": False, "add_generation_prompt": False}, "set one of them"),
        ({"messages": ASKED[:1]}, "only what an assistant says"),
        ({"chat_template_kwargs": {"continue_final_message": True}}, "cannot be set"),
    ],
)
def test_conversations_that_cannot_be_continued_are_refused(client, change, message):
    told = client.post("/v1/chat/completions", json={"messages": ASKED, "continue_final_message": True, **change})
    assert told.status_code == 400
    assert message in told.json()["error"]["message"]


def test_a_call_without_a_result_cannot_be_continued(client):
    called = {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "spin", "input": {}}]}
    told = client.post("/v1/messages", json={"messages": [ASKED[0], called], "max_tokens": 1})
    assert told.status_code == 400
    assert "cannot be continued" in told.json()["error"]["message"]
