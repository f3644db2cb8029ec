"""A model whose prompts end inside a thought, in every API."""

from __future__ import annotations

import json

import httpx
import pytest
from serving import events, running
from tiny_model import TEMPLATE, tiny_folder

HI = [{"role": "user", "content": "the loom"}]
BUDGET = {"thinking_token_budget": 3}


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    template = TEMPLATE.replace("assistant\n{% endif", "assistant\n<think>{% endif")
    folder = tiny_folder(tmp_path_factory.mktemp("thinker"), 512, control=["<think>", "</think>"], template=template)
    with running([folder]) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 40, **BUDGET}),
        ("/v1/responses", {"input": "the loom", "max_output_tokens": 40, **BUDGET}),
        ("/v1/messages", {"messages": HI, "max_tokens": 40, "thinking": {"type": "enabled", "budget_tokens": 3}}),
        ("/api/chat", {"model": "x", "messages": HI, "options": {"num_predict": 40, **BUDGET}}),
        ("/api/generate", {"model": "x", "prompt": "the loom", "options": {"num_predict": 40, **BUDGET}}),
    ],
)
def test_a_thought_has_a_budget_in_every_api(thinker, path, body):
    answer = thinker.post(path, json={**body, "stream": False, "seed": 1}).json()
    if path == "/v1/chat/completions":
        thought = answer["choices"][0]["message"]["reasoning_content"]
    elif path == "/v1/responses":
        thought = answer["output"][0]["summary"][0]["text"]
    elif path == "/v1/messages":
        thought = answer["content"][0]["thinking"]
    else:
        thought = answer.get("message", answer)["thinking"]
    assert 0 < thinker.post("/tokenize", json={"content": thought}).json()["count"] < 10  # half a character has three bytes


def test_an_answer_that_is_a_thought_alone_has_no_empty_text_behind_it(thinker):
    body = {"input": "the loom", "max_output_tokens": 5, "temperature": 0}
    whole = thinker.post("/v1/responses", json=body).json()
    last = json.loads(events(thinker.post("/v1/responses", json={**body, "stream": True}))[-1][1])["response"]
    assert [item["type"] for item in whole["output"]] == [item["type"] for item in last["output"]] == ["reasoning"]
    body = {"messages": HI, "max_tokens": 5, "temperature": 0}
    whole = thinker.post("/v1/messages", json=body).json()
    sent = [json.loads(data) for _, data in events(thinker.post("/v1/messages", json={**body, "stream": True}))]
    opened = [one["content_block"]["type"] for one in sent if one["type"] == "content_block_start"]
    assert [block["type"] for block in whole["content"]] == opened == ["thinking"]
