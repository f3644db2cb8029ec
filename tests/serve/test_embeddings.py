"""Embeddings: limits, batches, concurrent requests, and clients that disconnect."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import shutil
import socket
import threading
from dataclasses import replace
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from serving import running

import ordito
from ordito.embed.shorten import shortened
from ordito.errors import OrditoError
from ordito.native.runtime import NativeRuntime
from ordito.serve.settings import ServerSettings
from ordito.serve.streaming import long_list
from ordito.spec import Pooling
from ordito.text.tokenizer import Tokenizer

ASKED = [
    ("/v1/embeddings", {"input": "the loom"}),
    ("/api/embed", {"model": "x", "input": "the loom"}),
    ("/api/embeddings", {"model": "x", "prompt": "the loom"}),
    ("/v1/rerank", {"query": "the", "documents": ["the loom"]}),
]


@pytest.fixture
def gate(monkeypatch):
    """Blocks the model until it is set; `reached` is set once a step is blocked, `texts` counts what was computed."""
    hidden, opened = NativeRuntime.hidden, threading.Event()
    opened.reached, opened.texts = threading.Event(), []

    def held(self, texts, *arguments):
        opened.reached.set()
        assert opened.wait(60)
        opened.texts.append(len(texts))
        return hidden(self, texts, *arguments)

    monkeypatch.setattr(NativeRuntime, "hidden", held)
    yield opened
    opened.set()


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_too_many_wait(folder, gate, path, body):
    with running([folder], max_waiting=1) as url, concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(httpx.post, url + path, json=body, timeout=60) for _ in range(8)]
        try:
            refused = [next(done).result() for done in [concurrent.futures.as_completed(asked, timeout=30)] for _ in range(6)]
        finally:
            gate.set()
        answered = [one.result() for one in asked if one.result() not in refused]
    assert [one.status_code for one in refused] == [429] * 6
    assert all(one.headers["retry-after"] and "waiting already" in one.text for one in refused)
    assert [one.status_code for one in answered] == [200] * 2


def test_other_requests_are_answered_meanwhile(folder, gate):
    with running([folder]) as url, concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{url}/v1/embeddings", json={"input": ["the loom"] * 4096}, timeout=60)
        assert gate.reached.wait(30)
        assert httpx.get(f"{url}/health", timeout=30).status_code == 200
        gate.set()
        assert len(asked.result().json()["data"]) == 4096


def test_a_disconnect_frees_the_model(folder, gate):
    with running([folder]) as url:
        body = json.dumps({"input": ["the loom"] * 4096}).encode()
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as left:
            head = f"host: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
            left.sendall(b"POST /v1/embeddings HTTP/1.1\r\n" + head.encode() + body)
            assert gate.reached.wait(30)
        for _ in range(3):  # by then the server has noticed that the client disconnected
            httpx.get(f"{url}/health")
        gate.set()
        assert httpx.post(f"{url}/v1/embeddings", json={"input": "the loom"}, timeout=60).status_code == 200
        assert len(gate.texts) == 2  # one batch of a hundred, and the other request


def test_a_request_that_takes_too_long_is_ended(folder, gate):
    with running([folder], request_seconds=0.05) as url:
        threading.Timer(0.5, gate.set).start()
        told = httpx.post(f"{url}/v1/embeddings", json={"input": ["the loom"] * 4096}, timeout=60)
    assert told.status_code == 504
    assert told.headers["x-should-retry"] == "false"
    assert len(gate.texts) <= 1


def test_all_texts_together_are_bounded(client, monkeypatch):
    monkeypatch.setattr("ordito.serve.vectors.MAX_TOKENS", 20)
    monkeypatch.setattr(NativeRuntime, "hidden", None)  # nothing is computed
    told = client.post("/v1/embeddings", json={"input": ["the loom"] * 12})
    assert told.status_code == 400
    assert "more than 20 tokens together" in told.json()["error"]["message"]


@pytest.mark.parametrize("content", [b'{"input": [' + b"[1]," * 300_000 + b"[1]]}", b'{"input": [' + b"1," * 300_000 + b"1]}"])
def test_millions_of_values_are_not_read(client, content):
    for path in ("/v1/embeddings", "/api/embed", "/v1/completions"):
        told = client.post(path, content=content, headers={"content-type": "application/json"})
        assert told.status_code == 413
        assert "commas" in told.text


def test_batches_do_not_change_vectors(client, folder):
    texts = ["the loom " * (1 + 7 * place % 90) for place in range(100)]
    vectors = [one["embedding"] for one in client.post("/v1/embeddings", json={"input": texts}).json()["data"]]
    assert np.abs(np.array(vectors) - ordito.load(folder).embed(texts)).max() <= 1e-5


def test_a_truncated_text_is_not_tokenized_whole(client, monkeypatch):
    read = []
    encode = Tokenizer.encode

    def counted(self, text, **settings):
        read.append(len(text))
        return encode(self, text, **settings)

    def embedded(times):
        return client.post("/api/embed", json={"model": "x", "input": "the loom " * times}).json()

    short = embedded(2000)
    monkeypatch.setattr(Tokenizer, "encode", counted)
    long = embedded(200_000)
    assert long["embeddings"] == short["embeddings"]
    assert long["prompt_eval_count"] == short["prompt_eval_count"] == 1024
    assert max(read) < 100_000


def test_a_long_list_is_serialised_on_a_thread_and_sent_in_pieces():
    writers, sent = set(), []

    def items():
        for item in ({"a": 1}, ["ü", "\ud800"], 3.5):
            writers.add(threading.get_ident())
            yield item

    async def send(message):
        sent.append(message)

    async def asked(*arguments):
        response = await long_list(*arguments)
        sent.clear()
        await response({"type": "http", "asgi": {"spec_version": "2.4"}}, None, send)
        body = b"".join(message.get("body", b"") for message in sent)
        assert int(response.headers["content-length"]) == len(body)
        return json.loads(body)

    assert asyncio.run(asked({"x": "y"}, "data", items())) == {"x": "y", "data": [{"a": 1}, ["ü", "?"], 3.5]}
    assert len(sent) >= 4
    assert writers.isdisjoint({threading.get_ident()})
    assert asyncio.run(asked({}, "data", [])) == {"data": []}


def test_texts_to_be_counted_wait_only_for_each_other(folder, monkeypatch):
    encode, opened = Tokenizer.encode, threading.Event()

    def held(self, text, *arguments, **options):
        assert "long" not in text or opened.wait(60)
        return encode(self, text, *arguments, **options)

    monkeypatch.setattr(Tokenizer, "encode", held)
    with running([folder]) as url, concurrent.futures.ThreadPoolExecutor(40) as pool:
        counted = [pool.submit(httpx.post, f"{url}/tokenize", json={"content": "long"}, timeout=60) for _ in range(40)]
        try:
            answer = httpx.post(f"{url}/v1/completions", json={"prompt": "the loom", "max_tokens": 1}, timeout=30)
        finally:
            opened.set()
        assert answer.status_code == 200
        assert {one.result().json()["count"] for one in counted} == {len(ordito.load(folder).tokenizer.encode("long"))}


@pytest.mark.parametrize(
    ("trained", "fits", "refused"),
    [
        ({}, [32], "of 32 numbers, got 8"),
        ({"is_matryoshka": True}, [1, 8, 32], "of 1 to 32 numbers, got 33"),
        ({"matryoshka_dimensions": [8, 16, 64]}, [8, 16, 32], "of 8 or 16 or 32 numbers, got 9"),
    ],
)
def test_shorter_vectors_are_given_by_models_that_were_trained_for_it(folder, tmp_path, trained, fits, refused):
    shutil.copytree(folder, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "config.json").write_text(json.dumps(config | trained))
    model = ordito.load(tmp_path / "m")
    (whole,) = model.embed(["the loom"])
    with running([tmp_path / "m"]) as url:
        for dimensions in fits:
            (short,) = model.embed(["the loom"], dimensions=dimensions)
            np.testing.assert_allclose(short, whole[:dimensions], rtol=1e-6)
            body = {"input": "the loom", "dimensions": dimensions, "encoding_format": "float"}
            answer = httpx.post(f"{url}/v1/embeddings", json=body).json()
            np.testing.assert_allclose(answer["data"][0]["embedding"], short, rtol=1e-5)
        wrong = int(refused.split()[-1])
        answer = httpx.post(f"{url}/v1/embeddings", json={"input": "the loom", "dimensions": wrong})
    assert answer.status_code == 400
    assert refused in answer.json()["error"]["message"]
    with pytest.raises(OrditoError, match=refused):
        model.embed(["the loom"], dimensions=wrong)


def test_the_context_of_an_embedder_is_the_longest_text_that_it_embeds(folder):
    """MiniLM has 512 positions and reads 256 tokens: clients cut their texts to what they are told."""
    spec = replace(ordito.load(folder).spec, pooling=Pooling(kind="mean", max_tokens=256))
    assert ServerSettings().context_of(replace(spec, head=None)) == 256
    assert ServerSettings(context=100).context_of(replace(spec, head=None)) == 100
    assert ServerSettings().context_of(spec) == spec.context == 1024  # this one also continues texts


def test_shorter_vectors_have_length_1_where_whole_ones_have(tmp_path):
    checkpoint = SimpleNamespace(spec=SimpleNamespace(pooling=Pooling(kind="mean", normalise=True)))
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    short = shortened(vectors, 5, checkpoint)
    np.testing.assert_allclose(short, vectors[:, :5] / np.linalg.norm(vectors[:, :5], axis=1, keepdims=True), rtol=1e-6)
