"""The clients that people have, against a running server with SmolLM2 and MiniLM."""

from __future__ import annotations

import asyncio
import json
import sys

import anthropic
import numpy as np
import ollama
import openai
import pytest
from langchain_ollama import ChatOllama, OllamaEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core.llms import ChatMessage
from llama_index.llms.ollama import Ollama as LlamaIndexOllama
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from serving import running

import ordito

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
ASKED = [{"role": "user", "content": QUESTION}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "description": "weather", "strict": True, "parameters": PARAMETERS},
    }
]
GREEDY = {"temperature": 0}


class Person(BaseModel):
    name: str
    age: int


@pytest.fixture(scope="module")
def url():
    with running(["smollm2", "minilm"]) as address:
        yield address


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="any")


def test_openai(client):
    body = {"model": "smollm2", "messages": ASKED, "max_tokens": 12, **GREEDY}
    assert client.chat.completions.create(**body).choices[0].message.content == ANSWER
    with client.chat.completions.stream(**body) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.content == ANSWER
    assert [model.id for model in client.models.list()] == ["smollm2", "minilm"]
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_openai_asynchronously(url):
    async def ask():
        client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any")
        bodies = [{"model": "smollm2", "messages": ASKED, "max_tokens": 12, "stream": True, **GREEDY} for _ in range(6)]

        async def read(body):
            stream = await client.chat.completions.create(**body)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        return await asyncio.gather(*map(read, bodies))

    assert asyncio.run(ask()) == [ANSWER] * 6


def test_openai_tools(client):
    body = {"model": "smollm2", "messages": ASKED, "tools": TOOLS, "tool_choice": "required", **GREEDY}
    message = client.chat.completions.create(**body).choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}
    with client.chat.completions.stream(**body) as stream:
        for _ in stream:
            pass
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert call.function.parsed_arguments == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny, 20 degrees"}
    turns = [*ASKED, message.model_dump(), result]
    body = {"model": "smollm2", "messages": turns, "tools": TOOLS, "max_tokens": 20, **GREEDY}
    assert client.chat.completions.create(**body).choices[0].message.content


def test_openai_parses(client):
    messages = [{"role": "user", "content": "Make up a person."}]
    body = {"model": "smollm2", "messages": messages, "response_format": Person, "max_tokens": 100, **GREEDY}
    assert isinstance(client.chat.completions.parse(**body).choices[0].message.parsed, Person)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(**{**body, "max_tokens": 3})


def test_openai_responses(client):
    body = {"model": "smollm2", "input": QUESTION, "max_output_tokens": 12, **GREEDY}
    assert client.responses.create(**body).output_text == ANSWER
    with client.responses.stream(**body) as stream:
        for _ in stream:
            pass
        assert stream.get_final_response().output_text == ANSWER
    tools = [{"type": "function", **TOOLS[0]["function"]}]
    called = client.responses.create(model="smollm2", input=QUESTION, tools=tools, tool_choice="required", **GREEDY)
    assert json.loads(called.output[0].arguments) == {"city": "Paris"}


def test_openai_vectors(client):
    texts = ["a loom", "un telaio"]
    vectors = [one.embedding for one in client.embeddings.create(model="minilm", input=texts).data]
    assert np.allclose(vectors, ordito.load("minilm").embed(texts), atol=1e-5)


@pytest.mark.filterwarnings("ignore:a text of")
def test_long_texts_are_cut_only_where_that_is_asked_for(client):
    body = {"model": "minilm", "input": ["a cat", "word " * 600]}
    with pytest.raises(openai.BadRequestError, match="602 tokens, expected at most 256") as told:
        client.embeddings.create(**body)
    assert told.value.code == "context_length_exceeded"
    cut = client.embeddings.create(**body, extra_body={"truncate": True})
    assert cut.usage.prompt_tokens == 256 + 4


def test_openai_errors(client):
    with pytest.raises(openai.BadRequestError) as told:
        client.chat.completions.create(model="smollm2", messages=[{"role": "user", "content": "word " * 9000}])
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError) as told:
        client.chat.completions.create(model="gpt-4", messages=ASKED)
    assert told.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model="minilm", input=[[1, 2, 3]])


def test_anthropic(url):
    client = anthropic.Anthropic(base_url=url, api_key="any")
    body = {"model": "smollm2", "max_tokens": 12, "messages": ASKED, "extra_body": GREEDY}
    answer = client.messages.create(**body)
    assert answer.content[0].text == ANSWER
    assert answer.stop_reason == "end_turn"
    with client.messages.stream(**body) as stream:
        assert "".join(stream.text_stream) == ANSWER
    person = [{"role": "user", "content": "Make up a person."}]
    parsed = client.messages.parse(**{**body, "messages": person, "max_tokens": 100}, output_format=Person)
    assert isinstance(parsed.parsed_output, Person)
    tools = [{"name": "get_weather", "description": "weather", "input_schema": PARAMETERS}]
    body |= {"tools": tools, "tool_choice": {"type": "any"}, "max_tokens": 60}
    called = client.messages.create(**body)
    assert called.content[0].input == {"city": "Paris"}
    with client.messages.stream(**body) as stream:
        assert stream.get_final_message().content[0].input == {"city": "Paris"}
    result = {"type": "tool_result", "tool_use_id": called.content[0].id, "content": "sunny"}
    turns = [*ASKED, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(model="smollm2", max_tokens=8, messages=turns, tools=tools).content
    assert client.messages.count_tokens(model="smollm2", messages=ASKED).input_tokens == answer.usage.input_tokens + (
        answer.usage.cache_read_input_tokens or 0
    )
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="smollm2", max_tokens=1, messages=[{"role": "user", "content": "word " * 9000}])


def test_ollama(url):
    client = ollama.Client(host=url)
    body = {"model": "smollm2", "messages": ASKED, "options": {**GREEDY, "num_predict": 12}}
    assert client.chat(**body).message.content == ANSWER
    assert "".join(chunk.message.content for chunk in client.chat(**body, stream=True)) == ANSWER
    assert client.generate(model="smollm2", prompt=QUESTION, options=body["options"]).response == ANSWER
    parsed = client.chat(model="smollm2", messages=ASKED, format=Person.model_json_schema(), options=GREEDY)
    assert json.loads(parsed.message.content)["name"]
    assert {model.model for model in client.list().models} == {"smollm2", "minilm"}
    assert client.show("smollm2").modelinfo["llama.block_count"] == 30
    assert np.shape(client.embed(model="minilm", input=["a", "b"]).embeddings) == (2, 384)
    assert "smollm2" in [model.model for model in client.ps().models]
    with pytest.raises(ollama.ResponseError) as told:
        client.chat(model="nothing", messages=ASKED)
    assert told.value.status_code == 404


def test_langchain(url):
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="any", model="smollm2", temperature=0, max_tokens=12)
    assert model.invoke(QUESTION).content == ANSWER
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == ANSWER
    roomy = ChatOpenAI(base_url=f"{url}/v1", api_key="any", model="smollm2", temperature=0, max_tokens=100)
    assert isinstance(roomy.with_structured_output(Person).invoke("Make up a person."), Person)
    called = roomy.bind_tools(TOOLS, tool_choice="any").invoke(QUESTION)
    assert called.tool_calls[0]["args"] == {"city": "Paris"}
    embedder = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="any", model="minilm", check_embedding_ctx_length=False)
    assert np.shape(embedder.embed_documents(["a", "b"])) == (2, 384)
    native = ChatOllama(base_url=url, model="smollm2", temperature=0, num_predict=12)
    assert native.invoke(QUESTION).content == ANSWER
    assert "".join(chunk.content for chunk in native.stream(QUESTION)) == ANSWER
    assert np.shape(OllamaEmbeddings(base_url=url, model="minilm").embed_documents(["a"])) == (1, 384)


def test_llama_index(url):
    like = OpenAILike(api_base=f"{url}/v1", api_key="any", model="smollm2", is_chat_model=True, temperature=0, max_tokens=12)
    message = ChatMessage(role="user", content=QUESTION)
    assert like.chat([message]).message.content == ANSWER
    assert "".join(chunk.delta or "" for chunk in like.stream_chat([message])) == ANSWER
    native = LlamaIndexOllama(base_url=url, model="smollm2", temperature=0, additional_kwargs={"num_predict": 12})
    assert native.chat([message]).message.content == ANSWER


def test_the_evaluation_harness_scores_as_we_do(url, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(sys, "argv", ["lm_eval"])
    import lm_eval
    from lm_eval.tasks import TaskManager

    documents = [
        {"q": "The capital of France is", "c": ["Paris", "London", "a"], "a": 0},
        {"q": "Two plus two is", "c": ["five", "four", "the"], "a": 1},
        {"q": "The opposite of hot is", "c": ["cold", "warm", "tea"], "a": 0},
        {"q": "A loom makes", "c": ["bread", "cloth", "of"], "a": 1},
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents))
    task = {
        "task": "tiny_local",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "t.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{c}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "acc"}],
    }
    model = ordito.load("smollm2")
    model.tokenizer.to_folder(tmp_path / "vocabulary")
    found = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "smollm2",
            "base_url": f"{url}/v1/completions",
            "tokenizer": str(tmp_path / "vocabulary"),
            "tokenizer_backend": "huggingface",
        },
        tasks=[task],
        task_manager=TaskManager(include_defaults=False),
        log_samples=True,
    )
    samples = sorted(found["samples"]["tiny_local"], key=lambda sample: sample["doc_id"])
    for sample, document in zip(samples, documents, strict=True):
        for choice, ((score, _),) in zip(document["c"], sample["resps"], strict=True):
            start = model.tokenizer.encode(document["q"])
            ids = model.tokenizer.encode(f"{document['q']} {choice}")
            logits = model.logits(ids).astype(np.float64)
            logs = logits - logits.max(1, keepdims=True)
            logs -= np.log(np.exp(logs).sum(1, keepdims=True))
            ours = sum(logs[place - 1, ids[place]] for place in range(len(start), len(ids)))
            assert float(score) == pytest.approx(ours, abs=1e-3)
