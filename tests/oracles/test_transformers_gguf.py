"""GGUF files: what we write is what transformers reads, and what we read of a file is what transformers reads of it."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
import transformers
from tiny import error, make, output, token_ids

from ordito import families
from ordito.checkpoint.assemble import ours_from, theirs_from
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.nn.runtime import load_transformer

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CASES = {
    "llama": {"hidden_size": 64, "num_key_value_heads": 2},
    "llama, one kv head, all biases, head_dim, llama3": {"hidden_act": "silu", "rope_parameters": LLAMA3, "head_dim": 64},
    "gemma2": {"sliding_window": 7, "query_pre_attn_scalar": 24},
    "gemma3": {"query_pre_attn_scalar": 24},
}


def write_gguf(path, spec, weights, quantization=gguf.GGMLQuantizationType.F32):
    header = families.header_from_spec(spec)
    writer = gguf.GGUFWriter(path, header.architecture)
    for key, value in header.metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case list():
                writer.add_array(key, value)
            case str() if key != "general.architecture":
                writer.add_string(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"t{i}" for i in range(spec.vocab_size)])
    writer.add_token_merges(["t 1"])
    for binding in families.family_of(spec).gguf.names(spec).bindings(spec):
        for name, array in theirs_from(binding, weights):
            if array.ndim == 2 and quantization != gguf.GGMLQuantizationType.F32:
                writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
            else:
                writer.add_tensor(name, array)
    if "rope_freqs.weight" in header.shapes:
        writer.add_tensor("rope_freqs.weight", np.array(header.values("rope_freqs.weight"), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def weights_of(model, spec):
    names = families.family_of(spec).names(spec)
    state = {names.usual(key): value.detach().numpy() for key, value in model.state_dict().items()}
    return {
        name: array
        for binding in names.bindings(spec)
        for name, array in ours_from(binding, [state[theirs] for theirs in binding.theirs]).items()
    }


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_gguf_file_gives_the_logits_of_its_model(name, tmp_path):
    theirs = make(name, **CASES[name])
    spec = families.spec_from_config(theirs.config.to_dict())
    write_gguf(tmp_path / "model.gguf", spec, weights_of(theirs, spec))
    ours = load_transformer(open_checkpoint(tmp_path / "model.gguf"))
    ids = token_ids(30)
    assert error(ours(ids), output(theirs, ids)) <= 1e-5


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_0", "Q5_1"])
@torch.no_grad()
def test_a_quantized_file_gives_the_logits_that_transformers_reads_of_it(quantization, tmp_path):
    model = make("llama", hidden_size=64, intermediate_size=96)
    spec = families.spec_from_config(model.config.to_dict())
    write_gguf(tmp_path / "model.gguf", spec, weights_of(model, spec), gguf.GGMLQuantizationType[quantization])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ours = load_transformer(open_checkpoint(tmp_path / "model.gguf"))
    ids = token_ids(30)
    assert error(ours(ids), output(theirs.eval(), ids)) <= 1e-5
