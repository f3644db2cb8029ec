"""Text that grows beyond LongRoPE's original context is that of transformers, which then computes its cache anew."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers

import ordito

ORIGINAL, NEW = 16, 40


@pytest.mark.parametrize("backend", ["native", "torch"])
def test_cached_text_is_uncached_text(folder, tmp_path, backend):
    vocab = transformers.AutoConfig.from_pretrained(folder).vocab_size
    config = transformers.Phi3Config(
        vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, original_max_position_embeddings=ORIGINAL, pad_token_id=0,
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [1.0 + i for i in range(8)]
        },
    )  # fmt: skip
    torch.manual_seed(2)
    peer = transformers.Phi3ForCausalLM(config).eval()
    for parameter in peer.parameters():
        parameter.data.add_(0.4 * torch.randn_like(parameter))
    peer.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / name)
    model = ordito.load(tmp_path, backend=backend)
    prompts = [[5, 9, 33], [7, 7, 8, 21, 30, 12, 4, 2]]
    streams = [model.engine.submit(prompt, max_tokens=NEW, ignore_end=True) for prompt in prompts]
    for prompt, stream in zip(prompts, streams, strict=True):
        for _ in stream:
            pass
        got = stream.result.token_ids
        asked = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        assert got == peer.generate(torch.tensor([prompt]), **asked)[0, len(prompt) :].tolist()
        assert len(set(got)) > 4
        for cut in (ORIGINAL - len(prompt), NEW - 1):
            assert got[cut] == int(model.logits([*prompt, *got[:cut]])[-1].argmax())
