"""GGUF files that we write give, in llama.cpp, the logits of the model that they were made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_transformers_gguf import write_gguf
from tiny import error, output, saved, token_ids

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.nn.runtime import load_transformer

llama_cpp = pytest.importorskip("llama_cpp")

CASES = {
    # llama.cpp takes a model without q_lora_rank for V2-Lite, which it knows by its 27 layers.
    "deepseek2, lite": {"num_hidden_layers": 27},
    "deepseek2, dense, a magnitude of many digits": {"first_k_dense_replace": 1, "mlp_bias": False},
    "deepseek3": {},
    "llama4, experts everywhere, as GGUF knows it": {"num_local_experts": 16},
    "llama, one kv head, all biases, head_dim, llama3": {"hidden_act": "silu"},
    **{
        name: {} for name in ["llama", "llama, linear", "llama, longrope", "mistral, one kv head, head_dim, tied", "ministral3"]
    },
    **{name: {} for name in ["mixtral", "phi3, longrope", "qwen2", "qwen2, yarn", "qwen2_moe", "qwen3", "qwen3_moe"]},
    # Its windows are left out by llama.cpp, and so is the rounding of YaRN's bounds that gpt-oss does without.
    "phi3": {"sliding_window": None},
    "gpt_oss, as GGUF knows it": {"rope_parameters": {"rope_type": "default", "rope_theta": 150.0}},
}
"""Case -> what must change so that llama.cpp reads it."""


def logits(path, ids):
    """llama.cpp's, with a cache of full precision."""
    model = llama_cpp.Llama(
        str(path), n_ctx=64, n_batch=64, logits_all=True, type_k=0, type_v=0, flash_attn=False, n_threads=1, verbose=False
    )
    model.eval(ids[0].tolist())
    return torch.from_numpy(np.array(model.scores[: ids.shape[1]]))[None]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_llama_cpp_gives_the_same_logits(name, tmp_path):
    theirs = saved(name, tmp_path, **CASES[name])
    checkpoint = open_checkpoint(tmp_path)
    write_gguf(tmp_path / "model.gguf", checkpoint.spec, dict(checkpoint))
    ids = token_ids(40)
    got = load_transformer(open_checkpoint(tmp_path / "model.gguf"))(ids)
    assert error(got, output(theirs, ids)) <= 1e-5
    assert error(got, logits(tmp_path / "model.gguf", ids)) <= 2e-5
