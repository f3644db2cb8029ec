"""GPT-3, of which no weights are published: compared with transformers' GPT-2, every second layer masked to a band."""

from __future__ import annotations

import pytest
import torch
import transformers

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.families import config_from_spec, spec_from_config
from ordito.nn.runtime import load_transformer

SIZES = {"vocab_size": 61, "n_positions": 64, "n_embd": 48, "n_layer": 4, "n_head": 3}


@pytest.mark.parametrize("band", [1, 5])
@torch.no_grad()
def test_logits_are_those_of_gpt2_with_bands(band, tmp_path):
    config = transformers.GPT2Config(**SIZES, bos_token_id=0, eos_token_id=0)
    config._attn_implementation = "eager"
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "gpt2")
    spec = spec_from_config({"model_type": "gpt3", **SIZES, "attention_band": band})
    write_folder(tmp_path / "gpt3", spec, dict(open_checkpoint(tmp_path / "gpt2")))

    length = 23
    ids = torch.randint(0, 61, (1, length))
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    dense, banded = j <= i, (j <= i) & (i - j < band)
    hidden = model.transformer.wte(ids) + model.transformer.wpe(torch.arange(length))
    for number, block in enumerate(model.transformer.h):
        seen = banded if number % 2 else dense
        output = block(hidden, attention_mask=torch.zeros(length, length).masked_fill(~seen, -torch.inf)[None, None])
        hidden = output[0] if isinstance(output, tuple) else output
    expected = model.lm_head(model.transformer.ln_f(hidden))
    module = load_transformer(open_checkpoint(tmp_path / "gpt3"))
    assert float((module(ids) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((module(ids) - model(ids).logits).abs().max()) > 1e-3, "the band makes no difference"


def test_sizes_of_the_paper():
    """Table 2.1 of arXiv:2005.14165: head_dim of the 1.3B model is larger than d_model / n_heads."""
    spec = spec_from_config({"model_type": "gpt3", "n_embd": 2048, "n_layer": 24, "n_head": 24, "head_dim": 128})
    assert spec_from_config(config_from_spec(spec)) == spec
    windows = [attention.window for _, attention in spec.attentions]
    assert windows[::2] == [None] * 12
    assert set(windows[1::2]) == {128}
