"""Whole models that other libraries quantized have the logits of their values, and those of transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from quantized_tensors import awq, bnb_4bit, gptq, pack_quantized, scheme
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.families import spec_from_config
from ordito.nn.runtime import load_transformer

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 53,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
IDS = torch.arange(1, 20)[None] * 7 % 53


def quantize_gptq(weight):
    return gptq(4, inputs=weight.shape[1], outputs=weight.shape[0], sorted_columns=False)


def quantize_awq(weight):
    return awq("gemm", inputs=weight.shape[1], outputs=weight.shape[0])


def quantize_fp8(weight):
    scale = torch.rand(weight.shape[0] // 16, weight.shape[1] // 16) * 0.1
    small = (weight * 10).to(torch.float8_e4m3fn)
    return {"x.weight": small, "x.weight_scale_inv": scale}, Fp8Dequantize(None)._dequantize_one(small, scale)


def quantize_packed(weight):
    return pack_quantized(4, "group", False, *weight.shape)


def quantize_nf4(weight):
    return bnb_4bit(shape=tuple(weight.shape))


def quantize_int8(weight):
    tensors = {
        "x.weight": torch.randint(-127, 128, tuple(weight.shape), dtype=torch.int8),
        "x.SCB": torch.rand(weight.shape[0]),
    }
    return tensors, tensors["x.weight"] * tensors["x.SCB"][:, None] * 7.874015718698502e-3


WAYS = {
    "gptq": (quantize_gptq, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}),
    "awq": (quantize_awq, {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}),
    "fp8": (quantize_fp8, {"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"}),
    "compressed-tensors": (
        quantize_packed,
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": scheme(num_bits=4)},
    ),
    "nf4": (quantize_nf4, {"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "int8": (quantize_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}),
}


def quantized_folder(path, way):
    """A tiny LLaMA whose linear modules are quantized, all but the head, and the same with their values in plain."""
    spec = spec_from_config(CONFIG)
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape).astype(np.float32) * 0.2 for name, shape in spec.tensors().items()}
    for folder in (path / "small", path / "plain"):
        write_folder(folder, spec, weights)
    quantize, settings = WAYS[way]
    plain = load_file(path / "plain" / "model.safetensors")
    small = {}
    for name, tensor in list(plain.items()):
        if "proj" not in name:
            small[name] = tensor
            continue
        tensors, value = quantize(tensor)
        plain[name] = value.float().contiguous()
        small |= {name.removesuffix(".weight") + part.removeprefix("x"): item.contiguous() for part, item in tensors.items()}
    save_file(plain, path / "plain" / "model.safetensors")
    save_file(small, path / "small" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "small" / "config.json").read_text())
    config["quantization_config"] = settings | {"modules_to_not_convert": ["lm_head"]}
    (path / "small" / "config.json").write_text(json.dumps(config))
    return path / "small", path / "plain"


def logits(folder):
    with torch.no_grad():
        return load_transformer(open_checkpoint(folder))(IDS)


@pytest.mark.parametrize("way", WAYS)
def test_a_quantized_model_is_the_model_of_its_values(tmp_path, way):
    small, plain = quantized_folder(tmp_path, way)
    got = logits(small)
    assert torch.isfinite(got).all()
    torch.testing.assert_close(got, logits(plain), rtol=0, atol=0)
    checkpoint = open_checkpoint(small)
    assert checkpoint.nbytes < open_checkpoint(plain).nbytes
    assert len(checkpoint.encodings) == 2  # the quantized one, and f32 of embedding, norms and head


def test_a_model_in_fp8_has_the_logits_of_transformers(tmp_path):
    small, _ = quantized_folder(tmp_path, "fp8")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        expected = theirs(IDS).logits
    torch.testing.assert_close(logits(small), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["nf4", "int8"])
def test_a_model_of_bitsandbytes_has_the_logits_of_transformers(tmp_path, way):
    pytest.importorskip("bitsandbytes")
    small, _ = quantized_folder(tmp_path, way)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32, attn_implementation="eager")
    theirs = theirs.dequantize(dtype=torch.float32)
    with torch.no_grad():
        expected = theirs(IDS).logits
    torch.testing.assert_close(logits(small), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_gpt_oss_in_mxfp4_has_the_logits_of_transformers(tmp_path):
    """The published layout: experts in blocks of 32 along their inputs, everything else plain."""
    config = transformers.GptOssConfig(
        vocab_size=61, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, head_dim=16,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, sliding_window=6, max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    config._attn_implementation = "eager"
    torch.manual_seed(6)
    model = transformers.GptOssForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for layer, experts in enumerate(module.mlp.experts for module in model.model.layers):
        for name, rows, groups in (("gate_up_proj", 64, 2), ("down_proj", 64, 1)):
            blocks = torch.randint(0, 256, (4, rows, groups, 16), dtype=torch.uint8)
            scales = torch.randint(120, 127, (4, rows, groups), dtype=torch.uint8)
            stored = f"model.layers.{layer}.mlp.experts.{name}"
            del tensors[stored]
            tensors |= {f"{stored}_blocks": blocks, f"{stored}_scales": scales}
            getattr(experts, name).data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    save_file(tensors, tmp_path / "model.safetensors")
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"quantization_config": {"quant_method": "mxfp4"}}))
    ids = torch.randint(0, 61, (1, 17))
    expected = model(ids).logits
    got = load_transformer(open_checkpoint(tmp_path))(ids)
    assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
