"""Requests generated from the OpenAPI description, valid and invalid, never cause an internal error."""

from __future__ import annotations

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error

OPERATIONS = [
    ("POST", path)
    for path in (
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/show",
        "/tokenize",
        "/detokenize",
        "/apply-template",
    )
] + [("GET", "/v1/models/{name}")]


@pytest.fixture(scope="module")
def schema(url):
    return schemathesis.openapi.from_dict(httpx.get(f"{url}/openapi.json").json())


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    # Every path is valid.
    [(*one, mode) for one in OPERATIONS for mode in schemathesis.GenerationMode if one[0] == "POST" or mode.is_positive],
)
def test_no_request_makes_the_server_fail(schema, url, method, path, mode):
    operation = schema[path][method]

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def asked(case):
        case.call_and_validate(base_url=url, checks=[not_a_server_error], timeout=60)

    asked()


def test_every_route_is_described(schema):
    described = {(operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()}
    assert set(OPERATIONS) <= described
