"""Encoder-decoders: logits, hidden states and generated text are those of transformers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import transformers

import ordito
from ordito.errors import CheckpointError, OrditoError

SOURCE, ANSWER = [5, 9, 33, 7, 12, 1], [0, 8, 21, 6]


@pytest.fixture(scope="module")
def pair(folder, tmp_path_factory):
    """Our reading of a tiny T5 and transformers', with the tokenizer of the tiny LLaMA."""
    vocab = transformers.AutoConfig.from_pretrained(folder).vocab_size
    config = transformers.T5Config(
        vocab_size=vocab, d_model=48, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=3, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=10, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(4)
    peer = transformers.T5ForConditionalGeneration(config).eval()
    for parameter in peer.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    target = tmp_path_factory.mktemp("t5")
    peer.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            shutil.copy(folder / name, target / name)
    return ordito.load(target), peer


def close(got, expected):
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    assert np.abs(got - expected.numpy()).max() <= 1e-5 * float(expected.abs().max())


@torch.no_grad()
def test_logits_and_hidden_states(pair):
    model, peer = pair
    source, answer = torch.tensor([SOURCE]), torch.tensor([ANSWER])
    expected = peer(input_ids=source, decoder_input_ids=answer, output_hidden_states=True)
    close(model.logits(ANSWER, encoder_ids=SOURCE), expected.logits[0])
    close(model.hidden(SOURCE), expected.encoder_last_hidden_state[0])
    close(model.hidden(ANSWER, encoder_ids=SOURCE), expected.decoder_hidden_states[-1][0])


def test_cached_steps_equal_one_pass(pair):
    model, _ = pair
    session = model.runtime.session(SOURCE)
    stepped = [session.feed([id]) for id in ANSWER]
    whole = model.logits(ANSWER, encoder_ids=SOURCE)
    assert np.abs(np.stack(stepped) - whole).max() <= 1e-5 * np.abs(whole).max()


@torch.no_grad()
def test_greedy_text_is_that_of_transformers(pair):
    model, peer = pair
    ids = model.tokenizer.encode("the loom")
    written = [0]
    for _ in range(12):
        logits = peer(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([written])).logits
        written.append(int(logits[0, -1].argmax()))
    expected = written[1:]
    got = model.generate("the loom", max_tokens=12).token_ids
    assert got == expected[: len(got)]
    assert len(got) == 12 or expected[len(got)] in model.end_ids


def test_embeddings_of_its_own_are_no_copies(tmp_path):
    """transformers 5 gives a Switch with untied embeddings three tables, which no published model has."""
    sizes = {"vocab_size": 61, "d_model": 48, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 3}
    config = transformers.SwitchTransformersConfig(**sizes, num_experts=3, tie_word_embeddings=False)
    peer = transformers.SwitchTransformersForConditionalGeneration(config).eval()
    peer.save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"both 'shared\.weight' .* differ: one of them is 'encoder\.embed_tokens\.weight'"
    ):
        ordito.load(tmp_path)
    for stack in (peer.encoder, peer.decoder):
        stack.embed_tokens.weight.data.copy_(peer.shared.weight)
    peer.save_pretrained(tmp_path)
    expected = peer(input_ids=torch.tensor([SOURCE]), decoder_input_ids=torch.tensor([ANSWER])).logits[0].detach()
    close(ordito.load(tmp_path).logits(ANSWER, encoder_ids=SOURCE), expected)


def test_what_does_not_fit_is_said(pair, folder):
    model, _ = pair
    with pytest.raises(OrditoError, match="give its ids as encoder_ids"):
        model.logits(ANSWER)
    with pytest.raises(OrditoError, match="not a conversation"):
        model.chat([{"role": "user", "content": "hello"}])
    with pytest.raises(OrditoError, match="takes no encoder_ids"):
        ordito.load(folder).logits(ANSWER, encoder_ids=SOURCE)
