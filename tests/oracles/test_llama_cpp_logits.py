"""GGUF files that we write give, in llama.cpp, the logits of the model that they were made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_transformers_gguf import write_gguf
from tiny import error, output, saved, token_ids

from ordito import families
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


PARTLY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
PHIMOE = {"tie_word_embeddings": False, "attention_bias": True, "lm_head_bias": True}
TOLD = [
    ("gemma", {"tie_word_embeddings": False}),
    ("gemma2", {"tie_word_embeddings": False}),
    *((name, PARTLY) for name in ("llama", "mixtral", "qwen2", "qwen3_moe", "gpt_oss, as GGUF knows it")),
    ("phi3", {}),
    ("phimoe, one magnitude", PHIMOE),
    ("phimoe, one magnitude", PHIMOE | {"lm_head_bias": False}),
    ("gpt_oss, as GGUF knows it", {}),
]
"""Cases of which llama.cpp refuses the file, or computes other numbers."""
ALONE = """
import sys, numpy
from pathlib import Path
from test_llama_cpp_logits import logits
from tiny import token_ids
numpy.save(sys.argv[2], logits(Path(sys.argv[1]), token_ids(40)).numpy())
"""
"""In a process of its own, because llama.cpp may abort it."""


@pytest.mark.parametrize(("name", "changes"), TOLD)
@torch.no_grad()
def test_what_is_told_of_llama_cpp_is_true(name, changes, tmp_path):
    saved(name, tmp_path, **changes)
    checkpoint, path = open_checkpoint(tmp_path), tmp_path / "model.gguf"
    told = families.gguf_of(families.family_of(checkpoint.spec)).caveat(checkpoint.spec)
    write_gguf(path, checkpoint.spec, dict(checkpoint))
    command = [sys.executable, "-c", ALONE, str(path), str(tmp_path / "logits.npy")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=False)
    if done.returncode:
        assert b"error loading model" in done.stderr or b"GGML_ASSERT" in done.stderr or b"Failed to load" in done.stderr
        assert "refuse" in told
    else:
        assert "other numbers" in told
        got = load_transformer(open_checkpoint(path))(token_ids(40))
        assert error(got, torch.from_numpy(np.load(tmp_path / "logits.npy"))) > 1e-2


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
