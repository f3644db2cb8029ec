"""Quantized safetensors that make no sense are refused with one sentence, before their tensors are read."""

from __future__ import annotations

import json

import pytest
import torch
from quantized_tensors import awq, bnb_4bit, bnb_int8, fp8, gptq, mxfp4, pack_quantized, read, scheme

from ordito.checkpoint.quantized import read_quantized
from ordito.errors import CheckpointError, ConfigError, OrditoError


@pytest.mark.parametrize("config", [{"quant_method": "quip"}, {}, {"quant_method": "hqq\x1b[2J"}])
def test_methods_that_are_not_known_are_named(tmp_path, config):
    with pytest.raises(
        CheckpointError, match=r"config\.json: .*expected one of awq, bitsandbytes, compressed-tensors, fp8, gptq, mxfp4"
    ) as caught:
        read(tmp_path, {"x": torch.ones(1)}, **config)
    assert "\x1b" not in str(caught.value)


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 32}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 32}
FP8 = {"quant_method": "fp8", "weight_block_size": [16, 16]}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": scheme(num_bits=4)}
BNB = {"quant_method": "bitsandbytes"}
MXFP4 = {"quant_method": "mxfp4"}
FP8_TENSORS = {"x.weight": fp8(32, 48), "x.weight_scale_inv": torch.ones(2, 3)}
STATE = "x.weight.quant_state.bitsandbytes__nf4"


def state(**changes):
    values = {"shape": [15, 21], "blocksize": 64, "dtype": "float16", "nested_blocksize": 4, "nested_offset": 0.25} | changes
    return torch.tensor(list(json.dumps(values).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("tensors", "changes", "config", "message"),
    [
        (gptq(4)[0], {"x.scales": None}, GPTQ, "'x.scales' is missing"),
        (gptq(4)[0], {"x.qzeros": None}, GPTQ, "'x.qzeros' is missing"),
        (gptq(4)[0], {"x.qweight": torch.ones(12, 63, dtype=torch.int32)}, GPTQ, r"expected the shape \[12, 64\]"),
        (gptq(4)[0], {"x.qweight": torch.ones(12, 64)}, GPTQ, "'x.qweight' is f32"),
        (gptq(4)[0], {"x.qweight": torch.ones(0, 64, dtype=torch.int32)}, GPTQ, "none of them 0"),
        (gptq(4)[0], {"x.qzeros": torch.ones(3, 7, dtype=torch.int32)}, GPTQ, "integers of 2, 3, 4, 8 bits"),
        (gptq(4)[0], {"x.g_idx": torch.ones(200, dtype=torch.int32)}, GPTQ, "25 words"),
        (gptq(4)[0], {"x.g_idx": None}, GPTQ | {"group_size": 16}, "groups of 16"),
        (gptq(4)[0], {"x.weight": torch.ones(1)}, GPTQ, "both quantized and plain"),
        (gptq(4)[0], {}, GPTQ | {"bits": "4"}, "bits is '4'"),
        (gptq(4)[0], {}, GPTQ | {"checkpoint_format": "marlin"}, "one of gptq, gptq_v2"),
        (awq("gemm")[0], {"x.scales": torch.ones(3, 63)}, AWQ, r"expected the shape \[3, 64\]"),
        (awq("gemm")[0], {}, AWQ | {"group_size": 36}, "a multiple of 36"),
        (awq("gemm")[0], {}, AWQ | {"bits": 3}, "the only form"),
        (awq("gemm")[0], {}, AWQ | {"version": "marlin"}, "one of gemm, gemv"),
        (awq("gemv")[0], {"x.qzeros": torch.ones(64, 0, dtype=torch.int32)}, AWQ | {"version": "gemv"}, "none of them 0"),
        (awq("gemv")[0], {}, AWQ, "expected the shape"),
        (FP8_TENSORS, {"x.weight_scale_inv": torch.ones(2, 4)}, FP8, "one for 16 rows x 16 columns"),
        (FP8_TENSORS, {"x.weight": torch.ones(32, 48)}, FP8, "'x.weight' is f32"),
        (FP8_TENSORS, {}, FP8 | {"weight_block_size": [16, 0]}, "two sizes"),
        (FP8_TENSORS, {}, FP8 | {"weight_block_size": 16}, "a list"),
        (pack_quantized(4, "group", False)[0], {"x.weight_shape": torch.tensor([40, 1 << 60])}, PACKED, "the words of 40 rows"),
        (pack_quantized(4, "group", False)[0], {"x.weight_shape": torch.tensor([-40, -48])}, PACKED, "the words of -40 rows"),
        (pack_quantized(4, "group", False)[0], {"x.weight_scale": torch.ones(40, 5)}, PACKED, "groups of equal size"),
        (pack_quantized(4, "group", False)[0], {}, PACKED | {"format": "marlin-24"}, "'marlin-24', expected one of dense"),
        (pack_quantized(4, "group", False)[0], {}, PACKED | {"config_groups": [1]}, "an object of objects"),
        (bnb_4bit()[0], {STATE: state(shape=[15, 23])}, BNB, "173 bytes for 345 elements"),
        (bnb_4bit()[0], {STATE: state(shape=[1 << 30] * 9)}, BNB, "bytes for"),
        (bnb_4bit()[0], {STATE: state(shape=[-15, -21])}, BNB, "sizes of at least 1"),
        (bnb_4bit()[0], {STATE: state(blocksize=0)}, BNB, "blocksize is 0"),
        (bnb_4bit()[0], {STATE: state(blocksize=32)}, BNB, r"expected the shape \[10\]"),
        (bnb_4bit()[0], {STATE: state(dtype="complex64")}, BNB, "float16, bfloat16, float32"),
        (bnb_4bit()[0], {STATE: state(nested_offset=float("inf"))}, BNB, "a finite number"),
        (bnb_4bit()[0], {STATE: torch.zeros(9, dtype=torch.uint8)}, BNB, "a JSON object"),
        (bnb_4bit()[0], {STATE: torch.full((60_000,), ord("["), dtype=torch.uint8)}, BNB, "a JSON object"),
        (bnb_4bit()[0], {STATE: torch.full((70_000,), 32, dtype=torch.uint8)}, BNB, "at most 65536 bytes"),
        (bnb_4bit()[0], {"x.weight.quant_map": torch.ones(15)}, BNB, r"expected the shape \[16\]"),
        (bnb_4bit()[0], {"x.weight.nested_quant_map": torch.ones(255)}, BNB, r"expected the shape \[256\]"),
        (bnb_int8(), {"x.SCB": torch.ones(41)}, BNB, r"expected the shape \[40\]"),
        (bnb_int8(), {"x.weight_format": torch.tensor(1, dtype=torch.uint8)}, BNB, "expected row-major"),
        (
            mxfp4(),
            {"experts.gate_up_proj_scales": torch.ones(3, 6, 3, dtype=torch.uint8)},
            MXFP4,
            r"expected the shape \[3, 6, 2\]",
        ),
        (mxfp4(), {"experts.gate_up_proj_scales": None}, MXFP4, "is missing"),
        (mxfp4(), {"experts.gate_up_proj_blocks": torch.ones(3, 6, 2, 15, dtype=torch.uint8)}, MXFP4, r"\[3, 6, 2, 16\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_they_are_read(tmp_path, tensors, changes, config, message):
    tensors = {name: tensor for name, tensor in (tensors | changes).items() if tensor is not None}
    with pytest.raises((CheckpointError, ConfigError), match=message):
        read(tmp_path, tensors, **config)


@pytest.mark.parametrize("group", [-1, 3])
def test_group_indexes_out_of_range_are_refused(tmp_path, group):
    tensors, _ = gptq(4)
    tensors["x.g_idx"][5] = group
    weight = read(tmp_path, tensors, **GPTQ)["x.weight"]
    with pytest.raises(CheckpointError, match="expected 0 to 2"):
        weight.to_float32()


def test_a_quantization_config_that_is_none_is_refused(tmp_path):
    with pytest.raises(OrditoError, match="an object"):
        read_quantized({}, {"quantization_config": "gptq"}, "config.json")
