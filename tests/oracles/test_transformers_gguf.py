"""GGUF files: what we write is what transformers reads, and what we read of a file is what transformers reads of it."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest
import tiny
import torch
import transformers
from tiny import SOURCE, error, make, output, saved, spec_of, token_ids

from ordito import families
from ordito.checkpoint.assemble import ours_from, theirs_from
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import ConfigError
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


def write_gguf(path, spec, weights, quantization=gguf.GGMLQuantizationType.F32, names=None):
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
    for binding in (names or families.family_of(spec).gguf.names(spec)).bindings(spec):
        for name, array in theirs_from(binding, weights):
            if array.ndim == 2 and quantization != gguf.GGMLQuantizationType.F32:
                writer.add_tensor(name, gguf.quants.quantize(array, quantization), raw_dtype=quantization)
            else:
                writer.add_tensor(name, array)
    for name in header.shapes:
        if name.startswith("rope_"):
            writer.add_tensor(name, np.array(header.values(name), dtype=np.float32))
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


def expressible(name):
    try:
        families.header_from_spec(dataclasses.replace(spec_of(name), pooler=None, ahead=()))
    except ConfigError:
        return False
    return True


EXPRESSIBLE = [name for name in tiny.CASES if expressible(name)]


def as_gguf(name, folder, fuse=False):
    """The transformers model of a case, and the path of a GGUF file of it in our writing."""
    theirs = saved(name, folder / "theirs")
    checkpoint = open_checkpoint(folder / "theirs")
    spec = dataclasses.replace(checkpoint.spec, pooler=None)
    names = families.family_of(spec).gguf.names(spec)
    if fuse:
        names = families.with_fusions(names, {"blk.0.attn_qkv.weight", "blk.0.ffn_gate_up_exps.weight"})
    write_gguf(folder / "model.gguf", spec, dict(checkpoint), names=names)
    return theirs, folder / "model.gguf"


def logits(path, ids):
    module = load_transformer(open_checkpoint(path))
    with torch.no_grad():
        source = module.encode(SOURCE) if module.spec.encoder else None
        return (module if module.spec.head else module.hidden)(ids, source=source)


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_what_gguf_can_express_comes_back(name, tmp_path):
    theirs, path = as_gguf(name, tmp_path)
    ids = token_ids(40)
    assert error(logits(path, ids), output(theirs, ids)) <= 1e-5


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3_moe", "mixtral, windows, head_dim, three of four", "gemma2"])
def test_fused_tensors_are_read(name, tmp_path):
    if name not in EXPRESSIBLE:
        pytest.skip("GGUF cannot express this case")
    theirs, path = as_gguf(name, tmp_path, fuse=True)
    assert "blk.0.attn_qkv.weight" in open_checkpoint(path).stored
    ids = token_ids(20)
    assert error(logits(path, ids), output(theirs, ids)) <= 1e-5
