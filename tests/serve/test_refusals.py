"""Unauthorised requests are refused, and mistakes get an error in the format of their API."""

from __future__ import annotations

import json

import httpx
import pytest
from click.testing import CliRunner
from pydantic import ValidationError
from serving import error, running

from ordito.cli.serve import serve
from ordito.errors import OrditoError
from ordito.model import Model
from ordito.serve.embeddings import EmbeddingBody, RerankBody
from ordito.serve.ollama import EmbedBody
from ordito.serve.openai_completions import CompletionBody
from ordito.serve.settings import ServerSettings
from ordito.serve.tokens import DetokenizeBody

HI = [{"role": "user", "content": "the loom"}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0.5, "n": 1000}, "n"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "role"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://169.254.169.254"}}]}
                ]
            },
            "text",
        ),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1, "99999": 1}}, "logit_bias has a token 99999, expected ids of this model's vocabulary, 0 to "),
        ({"stop": ["x"] * 1000}, "stop: List should have at most"),
        ({"stop": ["x", ""]}, "stop.1: String should have at least 1 character"),
        ({"structured_outputs": {"choice": 5}}, "a choice must be a list"),
        ({"structured_outputs": {"choice": "abc"}}, "a choice must be a list"),
        ({"structured_outputs": {"grammar": []}}, "grammar must be a text"),
        ({"guided_choice": []}, "a choice must be a list"),
        ({"guided_grammar": "start: start"}, "lark cannot be used"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "schema"),
        ({"guided_regex": "("}, "regex"),
        ({"guided_regex": "(" * 10_000}, "nested"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools"),
        ({"chat_template_kwargs": {"messages": []}}, "cannot be set"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "cannot be set"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"keep_alive": "soon"}, "keep_alive"),
    ],
)
def test_errors_name_the_wrong_field(client, change, message):
    told = error(client.post("/v1/chat/completions", json={"model": "x", "messages": HI, **change}), 400)
    assert message in told["message"]
    assert told["type"] == "invalid_request_error"


@pytest.mark.parametrize("wrong", [{"query": ""}, {"documents": ["a", ""]}, {"documents": [{"text": ""}]}, {"documents": [{}]}])
def test_ranking_names_the_wrong_field(client, wrong):
    told = error(client.post("/v1/rerank", json={"query": "the loom", "documents": ["a weft"], **wrong}), 400)
    assert told["param"] == next(iter(wrong))


def test_a_prompt_too_long_says_both_numbers(client):
    told = error(client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "w " * 2000}]}), 400)
    assert told["code"] == "context_length_exceeded"
    assert "1024" in told["message"]
    anthropic = client.post("/v1/messages", json={"max_tokens": 1, "messages": [{"role": "user", "content": "w " * 2000}]})
    assert error(anthropic, 400)["type"] == "invalid_request_error"
    assert isinstance(error(client.post("/api/generate", json={"model": "x", "prompt": "w " * 2000}), 400), str)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff", b'{"messages": NaN}', b"[" * 100_000])
def test_bodies_that_are_no_requests(client, body):
    for path in ("/v1/chat/completions", "/v1/messages", "/api/chat"):
        response = client.post(path, content=body, headers={"content-type": "application/json"})
        assert response.status_code == 400, (path, response.text)
        assert "error" in response.json()


@pytest.mark.parametrize(
    ("body", "message"), [(b'{"input": "\xff"}', "can't decode byte 0xff in position 11"), (b"9" * 5000, "4300 digits")]
)
def test_why_a_body_cannot_be_read(client, body, message):
    told = client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert message in error(told, 400)["message"]


@pytest.mark.parametrize(
    ("value", "message"),
    [("NaN", "NaN or infinite"), ("1e999", "NaN or infinite"), (r'"the \ud800"', "the ': remove it")],
)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", '{"input": "the", "max_output_tokens": 1, "metadata": {"a": %s}}'),
        ("/v1/responses", '{"input": "the", "max_output_tokens": 1, "metadata": {"a": %s}, "stream": true}'),
        ("/apply-template", '{"messages": [{"role": "user", "content": "x", "a": %s}]}'),
    ],
)
def test_values_that_python_parses_but_json_lacks(client, path, body, value, message):
    told = client.post(path, content=body % value, headers={"content-type": "application/json"})
    assert message in error(told, 400)["message"]


def test_images_and_changes_of_models_are_refused(client):
    images = [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "http://x/"}}]}]
    assert "not supported" in error(client.post("/v1/messages", json={"max_tokens": 1, "messages": images}), 400)["message"]
    assert error(client.post("/api/copy", json={"source": "a", "destination": "b"}), 403)
    assert client.request("DELETE", "/api/delete", json={"model": "x"}).status_code == 403
    assert client.get("/etc/passwd").status_code == 404


def test_other_origins_are_refused(client):
    body = {"messages": HI, "max_tokens": 1}
    assert client.post("/v1/chat/completions", json=body, headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    here = client.get("/v1/models", headers={"origin": "http://localhost:3000"})
    assert here.headers["access-control-allow-origin"] == "http://localhost:3000"
    asked = {
        "origin": "http://localhost:3000",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-stainless-os",
    }
    preflight = client.options("/v1/chat/completions", headers=asked)
    assert preflight.status_code == 204
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    form = client.post("/v1/chat/completions", content=json.dumps(body), headers={"content-type": "text/plain"})
    assert form.status_code == 415
    for kind, status in (("text/x+json", 415), (";charset=utf-8", 400), ("application/problem+json", 200)):
        told = client.post("/v1/chat/completions", content=json.dumps(body), headers={"content-type": kind})
        assert told.status_code == status, told.text


def test_what_curl_calls_a_form_is_read_unless_a_page_sends_it(client):
    """`curl -d`, with which Ollama documents its API; a page cannot leave out its origin, and its forms are not JSON."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"model": "x", "messages": HI, "options": {"num_predict": 1}, "stream": False})
    for path in ("/api/chat", "/v1/chat/completions"):
        assert client.post(path, content=body, headers=form).status_code == 200
        assert client.post(path, content=body, headers={**form, "origin": "http://localhost:3000"}).status_code == 415
        assert client.post(path, data={"model": "x", "messages": body}).status_code == 400


def test_a_permitted_origin_may_be_given_with_a_slash(folder):
    with running([folder], origins=["https://loom.example/"]) as url:
        answer = httpx.get(f"{url}/v1/models", headers={"origin": "https://loom.example"})
    assert answer.headers["access-control-allow-origin"] == "https://loom.example"


def test_keys(folder):
    with running([folder], keys=["correct-horse"], strict_names=True) as url, httpx.Client(base_url=url) as client:
        assert client.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/api/tags", "/", "/openapi.json", "/nothing"):
            assert client.get(path).status_code == 401, path
        for headers in (
            {"authorization": "Bearer wrong-horse"},
            {"x-api-key": "correct-hors"},
            {"authorization": "correct-horse"},
        ):
            assert client.get("/v1/models", headers=headers).status_code == 401
        for headers in ({"authorization": "Bearer correct-horse"}, {"x-api-key": "correct-horse"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        refused = client.post("/v1/messages", json={})
        assert refused.json()["type"] == "error"
        assert refused.json()["error"]["type"] == "authentication_error"
        known = {"x-api-key": "correct-horse"}
        unknown = client.post("/v1/chat/completions", json={"model": "gpt-9", "messages": HI}, headers=known)
        assert error(unknown, 404)["code"] == "model_not_found"
        assert unknown.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_a_public_host_needs_a_key(host):
    with pytest.raises(OrditoError, match="needs a key"):
        ServerSettings(host=host)
    assert ServerSettings(host=host, keys=["12345678"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "nonsense"}, "unknown backend"),
        ({"dtype": "int21"}, "unknown dtype 'int21' of the native backend, .* did you mean int12"),
        ({"dtype": "int12", "backend": "torch"}, "unknown dtype 'int12' of the torch backend"),
        ({"cache": "q8", "backend": "torch"}, "keeps keys and values in the type of its weights"),
        ({"request_seconds": float("nan")}, "seconds"),
        ({"keys": ["short"]}, "at least 8"),
        ({"keys": [""]}, "at least 8"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(OrditoError, match=message):
        ServerSettings(**settings)


@pytest.mark.parametrize("content", [b"", b"  \n\n", b"\xff\xfe\x00"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    path = tmp_path / "keys.txt"
    path.write_bytes(content)
    told = CliRunner().invoke(serve, [str(tmp_path), "--api-key-file", str(path)]).exception
    assert isinstance(told, OrditoError)
    assert "one key a line" in str(told) or "one a line" in str(told)


def nested(levels):
    return json.loads('{"a":' * levels + "1" + "}" * levels)


CALLED = {"id": "1", "type": "function", "function": {"name": "spin", "arguments": "{}"}}


@pytest.mark.parametrize("levels", [150, 400, 700])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", lambda deep: {"messages": HI, "chat_template_kwargs": deep}),
        ("/v1/chat/completions", lambda deep: {"messages": HI, "metadata": deep}),
        (
            "/v1/chat/completions",
            lambda deep: {"messages": HI, "tools": [{"type": "function", "function": {"name": "spin", "parameters": deep}}]},
        ),
        (
            "/v1/chat/completions",
            lambda deep: {
                "messages": [
                    *HI,
                    {
                        "role": "assistant",
                        "tool_calls": [CALLED | {"function": {"name": "spin", "arguments": json.dumps(deep)}}],
                    },
                ]
            },
        ),
        ("/v1/responses", lambda deep: {"input": "x", "metadata": deep}),
        (
            "/v1/messages",
            lambda deep: {
                "max_tokens": 1,
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "spin", "input": deep}]}
                ],
            },
        ),
        ("/api/chat", lambda deep: {"model": "x", "messages": HI, "format": deep}),
    ],
)
def test_deep_data_is_refused(client, path, body, levels):
    response = client.post(path, json={**body(nested(levels)), "stream": False})
    assert response.status_code == 400, response.text
    assert "error" in response.json()


def test_blocks_of_a_wrong_type_are_refused(client):
    for change in (
        {"thinking": {"type": []}},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": 5}]}]},
    ):
        response = client.post("/v1/messages", json={"max_tokens": 1, "messages": HI, **change})
        assert response.status_code in (200, 400), response.text
        assert response.headers["content-type"] == "application/json"


def test_internal_errors_have_the_format_of_their_dialect(folder, monkeypatch):

    def failing(*arguments, **more):
        raise KeyError("inside")

    monkeypatch.setattr(Model, "prepare", failing)
    with running([folder]) as url, httpx.Client(base_url=url) as client:
        openai = client.post("/v1/chat/completions", json={"messages": HI})
        assert error(openai, 500)["type"] == "server_error"
        anthropic = client.post("/v1/messages", json={"messages": HI, "max_tokens": 1})
        assert error(anthropic, 500)["type"] == "api_error"
        assert anthropic.json()["request_id"] == anthropic.headers["request-id"]
        ollama = client.post("/api/chat", json={"model": "x", "messages": HI})
        assert isinstance(error(ollama, 500), str)
        for response in (openai, anthropic, ollama):
            assert "inside" not in response.text
            assert response.headers["x-should-retry"] == "false"


def test_errors_have_the_request_id(client):
    for body in (
        {"messages": HI},
        {"messages": HI, "max_tokens": 0},
        {"messages": HI, "max_tokens": 1, "tool_choice": {"type": "x"}},
    ):
        refused = client.post("/v1/messages", json=body)
        assert refused.status_code == 400
        assert refused.json()["request_id"] == refused.headers["request-id"]


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        (EmbeddingBody, {"input": [[""]] * 1000}),
        (CompletionBody, {"prompt": [[""]] * 1000}),
        (CompletionBody, {"prompt": [1.5] * 1000}),
        (DetokenizeBody, {"tokens": [""] * 1000}),
        (EmbedBody, {"model": "x", "input": [1] * 1000}),
        (RerankBody, {"query": "x", "documents": [1] * 1000}),
    ],
)
def test_validation_stops_at_the_first_mistake(body, wrong):
    """To collect hundreds of thousands would block the event loop for seconds."""
    with pytest.raises(ValidationError) as told:
        body.model_validate(wrong)
    assert told.value.error_count() < 10
