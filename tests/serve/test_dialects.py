"""Requests and responses of each API: OpenAI's, Anthropic's and Ollama's."""

from __future__ import annotations

import base64
import json
import threading

import httpx
import numpy as np
import pytest
from serving import chat, events, running

from ordito.engine.grammar import Matcher
from ordito.errors import OrditoError
from ordito.text.vocabulary import Vocabulary

HI = [{"role": "user", "content": "the loom"}]
TOOL = {"name": "spin", "parameters": {"type": "object", "properties": {"turns": {"enum": [1, 2]}}, "required": ["turns"]}}
TOOLS = [{"type": "function", "function": TOOL}]


def test_a_chat_completion_is_whole(client):
    answer = chat(client).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    used = answer["usage"]
    assert used["total_tokens"] == used["prompt_tokens"] + used["completion_tokens"]


def test_a_stream_equals_the_whole_answer(client):
    whole = chat(client).json()["choices"][0]["message"]["content"]
    response = chat(client, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    sent = [data for _, data in events(response)]
    assert sent[-1] == "[DONE]"
    chunks = [json.loads(data) for data in sent[:-1]]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == whole
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_comes_last_and_only_if_requested(client):
    sent = [data for _, data in events(chat(client, stream=True, stream_options={"include_usage": True}))]
    last = json.loads(sent[-2])
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] > 0
    assert all(json.loads(data)["usage"] is None for data in sent[:-2])


def test_several_answers_have_their_indexes(client):
    choices = chat(client, n=3, temperature=1.5, seed=1).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    sent = [json.loads(data) for _, data in events(chat(client, n=3, temperature=1.5, seed=1, stream=True))[:-1]]
    texts = ["", "", ""]
    for chunk in sent:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    assert texts == [choice["message"]["content"] for choice in choices]


def test_a_required_tool_is_called(client):
    answer = chat(client, tools=TOOLS, tool_choice="required", max_tokens=200).json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    (call,) = answer["message"]["tool_calls"]
    assert call["function"]["name"] == "spin"
    assert json.loads(call["function"]["arguments"])["turns"] in (1, 2)
    assert len(call["id"]) >= 9
    sent = [
        json.loads(data)
        for _, data in events(chat(client, tools=TOOLS, tool_choice="required", max_tokens=200, stream=True))[:-1]
    ]
    parts = [call for chunk in sent for call in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert parts[0]["function"]["name"] == "spin"
    assert parts[0]["id"]
    assert all(part["index"] == 0 for part in parts)
    assert not any("id" in part or "name" in part["function"] for part in parts[1:])
    assert json.loads("".join(part["function"]["arguments"] for part in parts))["turns"] in (1, 2)
    assert sent[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_answer_keeps_to_its_schema(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = chat(client, response_format=wanted, max_tokens=30).json()["choices"][0]
    assert json.loads(answer["message"]["content"])["a"] in (1, 2)
    assert chat(client, response_format=wanted, max_tokens=2).json()["choices"][0]["finish_reason"] == "length"
    assert chat(client, guided_choice=["warp"]).json()["choices"][0]["message"]["content"] == "warp"


def test_an_answer_keeps_to_its_schema_in_each_dialect(client):
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    said = {"messages": HI, "max_tokens": 30, "output_config": wanted}
    whole = client.post("/v1/messages", json=said).json()
    assert json.loads(whole["content"][0]["text"])["a"] in (1, 2)
    assert whole["stop_reason"] == "end_turn"
    assert client.post("/v1/messages", json={**said, "max_tokens": 2}).json()["stop_reason"] == "max_tokens"
    whole = client.post("/v1/responses", json={"input": "the loom", "max_output_tokens": 30, "text": wanted}).json()
    assert json.loads(whole["output"][0]["content"][0]["text"])["a"] in (1, 2)
    whole = client.post("/api/chat", json={"model": "x", "messages": HI, "format": schema, "stream": False}).json()
    assert json.loads(whole["message"]["content"])["a"] in (1, 2)


FORCED = {"tools": [{"name": "spin", "input_schema": {}}], "tool_choice": {"type": "any"}}


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/v1/messages", {"output_config": {"format": {"type": "yaml"}}}, "output_config.format: type is 'yaml'"),
        ("/v1/messages", {"output_config": {"format": 5}}, "output_config.format must be an object, got int"),
        ("/v1/messages", {"output_config": {"format": {"type": "json_schema"}}}, "output_config.format: json_schema needs a"),
        ("/v1/messages", {"output_config": {"format": {"type": "json_object"}}, **FORCED}, "excludes a format"),
        ("/v1/responses", {"text": {"format": []}}, "text.format must be an object, got list"),
        (
            "/v1/responses",
            {
                "text": {"format": {"type": "json_object"}},
                "tools": [{"type": "function", "name": "spin"}],
                "tool_choice": "required",
            },
            "excludes a format",
        ),
    ],
)
def test_formats_that_make_no_sense_are_refused(client, path, body, message):
    said = {"messages": HI, "max_tokens": 9} if path.endswith("messages") else {"input": "the loom"}
    refused = client.post(path, json={**said, **body})
    assert refused.status_code == 400
    assert message in refused.json()["error"]["message"]


def test_completions_take_texts_and_ids(client):
    body = {"model": "x", "temperature": 0, "max_tokens": 4}
    both = client.post("/v1/completions", json={**body, "prompt": ["the loom", "a weft"]}).json()["choices"]
    assert [choice["index"] for choice in both] == [0, 1]
    ids = client.post("/tokenize", json={"content": "the loom"}).json()["tokens"]
    one = client.post("/v1/completions", json={**body, "prompt": ids}).json()["choices"][0]
    assert one["text"] == both[0]["text"]
    assert client.post("/detokenize", json={"tokens": ids}).json()["content"] == "the loom"


def test_scoring_a_text(client):
    body = {"model": "x", "prompt": "the loom", "max_tokens": 0, "echo": True, "logprobs": 1}
    (choice,) = client.post("/v1/completions", json=body).json()["choices"]
    assert choice["text"] == "the loom"
    scores = choice["logprobs"]
    assert scores["token_logprobs"][0] is None
    assert all(value <= 0 for value in scores["token_logprobs"][1:])
    assert scores["text_offset"][0] == 0
    assert "".join(scores["tokens"]) == "the loom"
    for logprob, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True):
        assert max(top.values()) >= logprob


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_count_characters_and_not_their_bytes(client, stream):
    body = {"model": "x", "prompt": "a🧵b", "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0, "stream": stream}
    sent = client.post("/v1/completions", json=body)
    first = json.loads(events(sent)[0][1]) if stream else sent.json()
    scores = first["choices"][0]["logprobs"]
    assert scores["tokens"][:6] == ["a", *"\ufffd\ufffd\ufffd\ufffd", "b"]
    assert scores["text_offset"][:6] == [0, 1, 1, 1, 1, 2]


def test_stop_token_ids_end_an_answer(client):
    body = {"model": "x", "prompt": "the loom", "max_tokens": 8, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    tokens = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]["tokens"]
    stop = client.post("/tokenize", json={"content": tokens[3]}).json()["tokens"]
    answer = client.post("/v1/completions", json={**body, "stop_token_ids": stop})
    assert "x-ignored-params" not in answer.headers
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"]["tokens"] == tokens[: tokens.index(tokens[3])]
    assert chat(client, stop_token_ids=[-1]).status_code == 400


def test_responses(client):
    body = {"model": "x", "input": "the loom", "temperature": 0, "max_output_tokens": 5}
    whole = client.post("/v1/responses", json=body).json()
    assert whole["object"] == "response"
    text = whole["output"][0]["content"][0]["text"]
    sent = [(name, json.loads(data)) for name, data in events(client.post("/v1/responses", json={**body, "stream": True}))]
    assert [name for name, _ in sent[:2]] == ["response.created", "response.in_progress"]
    assert [data["sequence_number"] for _, data in sent] == list(range(len(sent)))
    assert "".join(data["delta"] for name, data in sent if name == "response.output_text.delta") == text
    assert sent[-1][0] in ("response.completed", "response.incomplete")
    assert sent[-1][1]["response"]["output"][0]["content"][0]["text"] == text


def test_messages(client):
    body = {"model": "x", "messages": HI, "temperature": 0, "max_tokens": 5}
    whole = client.post("/v1/messages", json=body).json()
    assert whole["type"] == "message"
    assert whole["stop_reason"] in ("end_turn", "max_tokens")
    sent = [(name, json.loads(data)) for name, data in events(client.post("/v1/messages", json={**body, "stream": True}))]
    names = [name for name, _ in sent]
    assert names[0] == "message_start"
    assert names[1] == "content_block_start"
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert all(data["type"] == name for name, data in sent)
    text = "".join(data["delta"]["text"] for name, data in sent if name == "content_block_delta")
    assert text == whole["content"][0]["text"]
    count = client.post("/v1/messages/count_tokens", json={"model": "x", "messages": HI}).json()["input_tokens"]
    assert count == whole["usage"]["input_tokens"] + whole["usage"]["cache_read_input_tokens"]


def test_messages_with_tools(client):
    tools = [{"name": "spin", "description": "", "input_schema": TOOL["parameters"]}]
    body = {"model": "x", "messages": HI, "temperature": 0, "max_tokens": 200, "tools": tools, "tool_choice": {"type": "any"}}
    whole = client.post("/v1/messages", json=body).json()
    assert whole["stop_reason"] == "tool_use"
    (block,) = whole["content"]
    assert block["input"]["turns"] in (1, 2)
    turns = [
        *HI,
        {"role": "assistant", "content": [block]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block["id"], "content": "done"}]},
    ]
    assert client.post("/v1/messages", json={**body, "messages": turns}).json()["stop_reason"] == "tool_use"


def test_ollama(client):
    body = {"model": "x", "messages": HI, "options": {"temperature": 0, "num_predict": 5}}
    lines = [json.loads(line) for line in client.post("/api/chat", json=body).text.splitlines()]
    assert lines[-1]["done"] is True
    assert lines[-1]["eval_count"] > 0
    assert not any(line["done"] for line in lines[:-1])
    whole = client.post("/api/chat", json={**body, "stream": False}).json()
    assert whole["message"]["content"] == "".join(line["message"]["content"] for line in lines)
    raw = client.post(
        "/api/generate", json={"model": "x", "prompt": "the loom", "raw": True, "stream": False, "options": body["options"]}
    )
    assert raw.json()["response"]
    assert client.get("/").text == "Ollama is running"
    assert client.get("/api/version").json()["version"]
    (listed,) = client.get("/api/tags").json()["models"]
    shown = client.post("/api/show", json={"model": listed["model"]}).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert "completion" in shown["capabilities"]
    assert client.get("/api/ps").json()["models"]


def test_unloading_a_model(client):
    assert chat(client).status_code == 200
    gone = client.post("/api/generate", json={"model": "x", "keep_alive": 0, "stream": False}).json()
    assert gone["done_reason"] == "unload"
    assert client.get("/api/ps").json()["models"] == []
    assert chat(client).status_code == 200


def test_who_is_answered_is_answered_to_the_end(client):
    body = {"model": "x", "messages": HI, "temperature": 0, "max_tokens": 200, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        client.post("/api/generate", json={"model": "x", "keep_alive": 0, "stream": False})
        sent = [line for line in lines if line.startswith("data: {")]
    assert sum(bool(json.loads(line[6:])["choices"][0]["delta"].get("content")) for line in sent) > 50
    assert client.get("/api/ps").json()["models"] == []


def test_vectors(client):
    body = {"model": "x", "input": ["the loom", "a weft"]}
    plain = client.post("/v1/embeddings", json={**body, "encoding_format": "float"}).json()["data"]
    coded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"]
    for a, b in zip(plain, coded, strict=True):
        assert np.allclose(a["embedding"], np.frombuffer(base64.b64decode(b["embedding"]), "<f4"))
    native = client.post("/api/embed", json=body).json()["embeddings"]
    assert np.allclose(native[1], plain[1]["embedding"])
    ranked = client.post(
        "/v1/rerank", json={"query": "the loom", "documents": ["a weft", "the loom"], "return_documents": True}
    ).json()
    assert ranked["results"][0]["index"] == 1
    assert ranked["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-3)
    assert ranked["results"][0]["document"]["text"] == "the loom"


def test_models_are_listed_for_both(client):
    listed = client.get("/v1/models").json()
    (model,) = listed["data"]
    assert model["object"] == "model"
    assert model["type"] == "model"
    assert client.get(f"/v1/models/{model['id']}").json()["id"] == model["id"]
    assert listed["first_id"] == model["id"]


def test_the_context_of_a_server_is_told_to_clients(folder):
    with running([folder], context=100) as url, httpx.Client(base_url=url, timeout=60) as client:
        for state in ("not-loaded", "loaded"):
            (model,) = client.get("/v1/models").json()["data"]
            assert (model["state"], model["max_model_len"], model["meta"]["n_ctx_train"]) == (state, 100, 1024)
            assert model["sampling_defaults"]
            assert client.post("/tokenize", json={"content": "the"}).json()["max_model_len"] == 100
        assert client.get("/api/ps").json()["models"][0]["context_length"] == 100


@pytest.mark.parametrize("keep_alive", [9e11, "999999999999h"])
def test_a_model_kept_for_ever_is_listed(client, keep_alive):
    body = {"model": "x", "messages": [], "stream": False, "keep_alive": keep_alive}
    assert client.post("/api/chat", json=body).json()["done_reason"] == "load"
    (listed,) = client.get("/api/ps").json()["models"]
    assert listed["expires_at"] > "2300"
    client.post("/api/chat", json=body | {"keep_alive": "5m"})


def test_a_keep_alive_lasts_until_the_model_is_unloaded(client):
    load = {"model": "x", "stream": False}
    for keep_alive, later in ((-1, True), (0, None), (None, False)):
        client.post("/api/generate", json=load | {"keep_alive": keep_alive})
        if later is not None:
            assert chat(client).status_code == 200
            assert (client.get("/api/ps").json()["models"][0]["expires_at"] > "2300") is later


def test_apply_template(client):
    prompt = client.post("/apply-template", json={"messages": HI}).json()["prompt"]
    assert prompt == "<|im_start|>user\nthe loom<|im_end|>\n<|im_start|>assistant\n"


def test_ignored_fields_are_named(client):
    response = chat(client, store=True, nonsense=1)
    assert response.status_code == 200
    assert response.headers["x-ignored-params"] == "nonsense,store"
    for path, body in (
        ("/v1/completions", {"prompt": "the", "max_tokens": 1}),
        ("/v1/responses", {"input": "the", "max_output_tokens": 1}),
        ("/v1/messages", {"messages": HI, "max_tokens": 1}),
        ("/api/chat", {"model": "x", "messages": HI, "options": {"num_predict": 1}}),
        ("/v1/embeddings", {"input": "the"}),
    ):
        for stream in (False, True):
            response = client.post(path, json={**body, "nonsense": 1, "stream": stream})
            assert response.status_code == 200, response.text
            assert "nonsense" in response.headers["x-ignored-params"], path
    before = client.post("/api/generate", json={"model": "x", "prompt": "the", "context": [1], "options": {"num_predict": 1}})
    assert before.headers["x-ignored-params"] == "context"


def test_every_answer_of_a_completion_echoes_its_prompt(client):
    body = {"prompt": "the loom", "n": 2, "echo": True, "logprobs": 1, "max_tokens": 2, "temperature": 0}
    whole = client.post("/v1/completions", json=body).json()["choices"]
    streamed = [{"text": "", "tokens": []} for _ in whole]
    for _, data in events(client.post("/v1/completions", json={**body, "stream": True}))[:-1]:
        (choice,) = json.loads(data)["choices"]
        streamed[choice["index"]]["text"] += choice["text"]
        streamed[choice["index"]]["tokens"] += choice["logprobs"]["tokens"]
    for choice, same in zip(whole, streamed, strict=True):
        assert choice["text"].startswith("the loom")
        assert "".join(choice["logprobs"]["tokens"]) == choice["text"] == same["text"]
        assert choice["logprobs"]["tokens"] == same["tokens"]


def test_earlier_calls_are_rendered_without_tools(client):
    called = {"id": "call_1", "type": "function", "function": {"name": "spin", "arguments": '{"turns": 1}'}}
    turns = [
        *HI,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "call_1", "content": "7"},
    ]
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}, {"tools": TOOLS}):
        assert chat(client, messages=turns, **more).status_code == 200


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": []}, {"input": None}, {}])
def test_without_a_text_to_embed_ollamas_clients_load_the_model(client, empty):
    client.post("/api/generate", json={"model": "x", "keep_alive": 0})
    assert client.get("/api/ps").json()["models"] == []
    assert client.post("/api/embed", json={"model": "x", **empty}).json() == {"model": "x", "embeddings": []}
    assert client.get("/api/ps").json()["models"]


def test_null_fields_of_ollamas_clients(client):
    unset = {"stream": None, "format": None, "options": None, "keep_alive": None, "think": None}
    loaded = client.post("/api/chat", json={"model": "x", "messages": None, **unset}).json()
    assert loaded["done_reason"] == "load"
    assert client.post("/api/generate", json={"model": "x", "prompt": None, "system": None, **unset}).json()["done"]


def test_ollamas_models_can_be_told_apart(client):
    client.post("/api/generate", json={"model": "x"})
    for path in ("/api/tags", "/api/ps"):
        (model,) = client.get(path).json()["models"]
        assert len(model["digest"]) == 64


@pytest.mark.filterwarnings("ignore:a text of")
def test_long_texts_are_truncated_only_if_requested(client):
    long = "the loom " * 2000
    for path, body in (
        ("/v1/embeddings", {"input": ["x", long]}),
        ("/v1/rerank", {"query": "x", "documents": ["x", long]}),
        ("/api/embed", {"model": "x", "input": long, "truncate": False}),
    ):
        told = client.post(path, json=body)
        assert told.status_code == 400, path
        assert "1,024" in told.text


def test_usage_says_why_a_prompt_was_not_cached(client):
    def details(text):
        return chat(client, messages=[{"role": "user", "content": text}]).json()["usage"]["prompt_tokens_details"]

    first, again, other = (
        details("warp weft loom loom loom"),
        details("warp weft loom loom loom"),
        details("warp weft loom warp"),
    )
    assert first["cache_missed"]
    assert "cache_missed" not in again
    assert "is cached" in other["cache_missed"]
    assert other["cached_tokens"] < again["cached_tokens"]


def test_an_error_in_a_stream_has_the_format_of_its_dialect(client, monkeypatch):
    def failing(*arguments):
        raise OrditoError("the grammar is too hard to follow")

    monkeypatch.setattr(Matcher, "allowed", failing)
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "json_schema": {"schema": schema}}
    *_, (_, data) = events(chat(client, stream=True, response_format=wanted))
    assert "too hard" in json.loads(data)["error"]["message"]
    body = {"input": "the", "stream": True, "text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    sent = events(client.post("/v1/responses", json=body))
    assert sent[-1][0] == "response.failed"
    told = [json.loads(data) for _, data in sent]
    assert [one["sequence_number"] for one in told] == list(range(len(told)))
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["status"] == "failed"
    assert "too hard" in told[-1]["response"]["error"]["message"]
    lines = client.post("/api/chat", json={"model": "x", "messages": HI, "format": schema}).text.splitlines()
    assert "too hard" in json.loads(lines[-1])["error"]
    tools = [{"name": "spin", "input_schema": schema}]
    anthropic = {"messages": HI, "max_tokens": 9, "tools": tools, "tool_choice": {"type": "any"}, "stream": True}
    *_, (name, data) = events(client.post("/v1/messages", json=anthropic))
    assert name == json.loads(data)["type"] == "error"


def test_tool_calls_can_be_limited_to_one(client):
    call = r'<tool_call>\n{"name": "spin", "arguments": {"turns": 1}}\n</tool_call>'.replace("{", r"\{").replace("}", r"\}")
    body = {"tools": TOOLS, "max_tokens": 400, "guided_regex": f"{call}\n{call}"}
    for more, calls in (({}, 2), ({"parallel_tool_calls": False}, 1)):
        answer = chat(client, **body, **more).json()["choices"][0]
        assert len(answer["message"]["tool_calls"]) == calls
        assert answer["finish_reason"] == "tool_calls"
        sent = [json.loads(data)["choices"][0] for _, data in events(chat(client, **body, **more, stream=True))[:-1]]
        indexes = {part["index"] for choice in sent for part in choice["delta"].get("tool_calls", [])}
        assert indexes == set(range(calls))
        assert sent[-1]["finish_reason"] == "tool_calls"
    message = answer["message"]
    assert message["content"] is None
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"turns": 1}


def test_long_answers_are_written_on_a_thread(client, monkeypatch):
    """A loop that formats the log probabilities of thousands of tokens sends no one else anything meanwhile."""
    writers = set()
    bytes_of = Vocabulary.bytes_of

    def noted(self, id):
        writers.add(threading.current_thread().name)
        return bytes_of(self, id)

    monkeypatch.setattr(Vocabulary, "bytes_of", noted)
    for path, body in (
        ("/v1/completions", {"prompt": ["the loom", "a weft"], "max_tokens": 3, "echo": True, "logprobs": 2}),
        ("/v1/chat/completions", {"messages": HI, "max_tokens": 3, "logprobs": True, "n": 2}),
        ("/api/chat", {"model": "x", "messages": HI, "stream": False, "logprobs": True, "options": {"num_predict": 3}}),
    ):
        writers.clear()
        assert client.post(path, json=body).status_code == 200
        assert writers
        assert all(name.startswith(("asyncio_", "ordito-engine")) for name in writers), (path, writers)
