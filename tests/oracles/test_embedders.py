"""Embedders of every kind of pooling: their vectors are those of sentence-transformers, from its files and from ours."""

from __future__ import annotations

import json

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from sentence_transformers import models

import ordito
from ordito.errors import CheckpointError, OrditoError

TEXTS = ["the warp and the weft of a loom", "loom", "a warp", "the weft the weft the weft"]
SMALL = {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 60, "num_attention_heads": 4}
GEMMA = {"num_key_value_heads": 1, "head_dim": 16, "sliding_window": 6, "use_bidirectional_attention": True}


def gemma(vocab):
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    config = transformers.Gemma3TextConfig(vocab_size=vocab, layer_types=layers, **SMALL, **GEMMA)
    return transformers.Gemma3TextModel(config)


def qwen(vocab):
    config = transformers.Qwen3Config(vocab_size=vocab, num_key_value_heads=2, head_dim=16, **SMALL)
    return transformers.Qwen3Model(config)


def roberta(vocab):
    config = transformers.XLMRobertaConfig(vocab_size=vocab, max_position_embeddings=40, type_vocab_size=1, **SMALL)
    return transformers.XLMRobertaModel(config)


def modernbert(vocab):
    config = transformers.ModernBertConfig(vocab_size=vocab, local_attention=6, pad_token_id=0, **SMALL)
    return transformers.ModernBertModel(config)


def t5(vocab):
    config = transformers.T5Config(vocab_size=vocab, d_model=48, d_kv=12, d_ff=64, num_layers=2, num_heads=4)
    return transformers.T5EncoderModel(config)


def dense(wide, bias, activation):
    return models.Dense(48, wide, bias=bias, activation_function=activation)


KINDS = {
    "EmbeddingGemma": (gemma, "mean", [lambda: dense(96, False, torch.nn.Identity()), lambda: models.Dense(
        96, 48, bias=False, activation_function=torch.nn.Identity())], True),
    "Qwen3-Embedding": (qwen, "lasttoken", [], True),
    "multilingual E5": (roberta, "mean", [], True),
    "ModernBERT": (modernbert, "cls", [], False),
    "sentence-T5": (t5, "mean", [lambda: dense(30, True, torch.nn.Tanh())], True),
}  # fmt: skip


def made(kind, folder, target):
    """A tiny random embedder, written by sentence-transformers with the tokenizer of the tiny LLaMA."""
    build, mode, maps, normalise = KINDS[kind]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, None
    torch.manual_seed(5)
    body = build(len(tokenizer)).eval()
    for parameter in body.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    body.save_pretrained(target / "body")
    tokenizer.save_pretrained(target / "body")
    parts = [models.Transformer(str(target / "body"), max_seq_length=30), models.Pooling(48, pooling_mode=mode)]
    parts += [make() for make in maps] + ([models.Normalize()] if normalise else [])
    prompts = {"query": "the query | ", "document": ""}
    model = sentence_transformers.SentenceTransformer(modules=parts, prompts=prompts, device="cpu")
    model.save(str(target / "whole"))
    return model, target / "whole"


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers(kind, folder, tmp_path):
    peer, path = made(kind, folder, tmp_path)
    model = ordito.load(path)
    expected = peer.encode(TEXTS)
    got = model.embed(TEXTS)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    asked = peer.encode(TEXTS, prompt_name="query")
    assert np.abs(model.embed(TEXTS, prompt="query") - asked).max() <= 1e-5 * np.abs(asked).max()
    assert np.abs(asked - expected).max() > 1e-3
    ordito.save(model, tmp_path / "ours")
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(TEXTS)
    assert np.abs(again - expected).max() <= 1e-5 * np.abs(expected).max()


def test_unsupported_modules_are_refused(folder, tmp_path):
    _, path = made("EmbeddingGemma", folder, tmp_path)
    with pytest.raises(OrditoError, match="unknown prompt 'poem', expected one of"):
        ordito.load(path).embed(TEXTS, prompt="poem")
    with pytest.raises(OrditoError, match="has no prompts"):
        ordito.load(folder).embed(TEXTS, prompt="query")
    place = path / "2_Dense" / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"activation_function": "torch.nn.Spiral"}))
    with pytest.raises(CheckpointError, match="'Spiral', expected two sizes and one of Identity"):
        ordito.load(path)
    place.write_text(json.dumps({"in_features": 48, "out_features": 95, "bias": False}))
    with pytest.raises(OrditoError, match="96"):
        ordito.load(path)
