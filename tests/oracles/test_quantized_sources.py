"""Safetensors that other libraries quantized: every value is that library's.

Where a library runs here it is the oracle (transformers always; bitsandbytes and compressed-tensors if they are installed).
GPTQ and AWQ are packed by the published rules, one integer at a time, beside vectors that their libraries made.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from quantized_tensors import (
    GROUP,
    awq,
    bnb_4bit,
    bnb_int8,
    fp8,
    gptq,
    grid,
    mxfp4,
    pack_quantized,
    read,
    scheme,
    spread,
)
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from ordito.checkpoint.quantized import read_quantized
from ordito.checkpoint.safetensors import read_safetensors

FLOAT_TYPES = [torch.float16, torch.bfloat16, torch.float32]


def assert_equal(tensor, expected):
    got = tensor.to_float32()
    assert got.dtype == np.float32
    assert tensor.shape == got.shape == tuple(expected.shape)
    np.testing.assert_array_equal(got, expected.float().numpy())


# ---------------------------------------------------------------------------------------------------------------------
# GPTQ


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(tmp_path, bits, first, dtype):
    tensors, weight = gptq(bits, dtype, first, sorted_columns=False)
    form = {} if first else {"checkpoint_format": "gptq_v2"}
    got = read(tmp_path, tensors, quant_method="gptq", bits=bits, group_size=GROUP, desc_act=True, **form)
    assert set(got) == {"x.weight"}
    assert got["x.weight"].nbytes == sum(tensor.nbytes for tensor in tensors.values())
    assert_equal(got["x.weight"], weight)


@pytest.mark.parametrize(("inputs", "group"), [(96, 32), (96, 40), (96, -1)])
def test_gptq_without_group_indexes(tmp_path, inputs, group):
    tensors, weight = gptq(4, inputs=inputs, group=group if group > 0 else inputs)
    del tensors["x.g_idx"]
    assert_equal(read(tmp_path, tensors, quant_method="gptq", bits=4, group_size=group)["x.weight"], weight)


def test_gptq_of_many_rows_at_a_time(tmp_path):
    tensors, weight = gptq(4, inputs=2048, outputs=200)
    assert_equal(read(tmp_path, tensors, quant_method="gptq", bits=4, group_size=GROUP)["x.weight"], weight)


def test_gptq_modules_of_other_bits(tmp_path):
    # GPTQModel's `dynamic` rules
    (four, weight_4), (eight, weight_8) = gptq(4), gptq(8)
    tensors = {f"a{name}": tensor for name, tensor in four.items()} | {f"b{name}": tensor for name, tensor in eight.items()}
    got = read(tmp_path, tensors, quant_method="gptq", bits=4, group_size=GROUP)
    assert_equal(got["ax.weight"], weight_4)
    assert_equal(got["bx.weight"], weight_8)


def test_gptq_of_three_bits_as_gptqmodel_unpacks_them(tmp_path):
    # Made with `dequantize_weight` of GPTQModel 7.7 (nn_modules/qlinear/__init__.py).
    words = np.array([0xF54CD1BC, 0xFA8A6497, 0xCF2FBB12], np.uint32).view(np.int32)
    expected = [4, 7, 6, 0, 5, 1, 3, 2, 5, 6, 7, 3, 1, 1, 1, 3, 2, 1, 2, 5, 7, 5, 4, 0, 3, 7, 6, 7, 2, 6, 3, 6]
    tensors = {
        "x.qweight": torch.tensor(words)[:, None].expand(3, 32),
        "x.qzeros": torch.zeros(1, 3, dtype=torch.int32),
        "x.scales": torch.ones(1, 32, dtype=torch.float16),
    }
    got = read(tmp_path, tensors, quant_method="gptq", bits=3, group_size=-1, checkpoint_format="gptq_v2")["x.weight"]
    assert_equal(got, torch.tensor(expected).expand(32, 32))


# ---------------------------------------------------------------------------------------------------------------------
# AWQ


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("layout", ["gemm", "gemv"])
def test_awq(tmp_path, layout, dtype):
    tensors, weight = awq(layout, dtype)
    assert_equal(read(tmp_path, tensors, quant_method="awq", bits=4, group_size=32, version=layout)["x.weight"], weight)


def test_awq_of_many_columns_at_a_time(tmp_path):
    tensors, weight = awq("gemm", inputs=2048, outputs=200)
    assert_equal(read(tmp_path, tensors, quant_method="awq", bits=4, group_size=32)["x.weight"], weight)


def test_awq_nibbles_as_autoawq_unpacks_them(tmp_path):
    # AWQ_REVERSE_ORDER of AutoAWQ 0.2.9 (utils/packing_utils.py): each nibble of this word holds its own place.
    tensors = {
        "x.qweight": torch.full((8, 1), 0x76543210, dtype=torch.int32),
        "x.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "x.scales": torch.ones(1, 8, dtype=torch.float16),
    }
    got = read(tmp_path, tensors, quant_method="awq", bits=4, group_size=-1)["x.weight"]
    assert_equal(got, torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])[:, None].expand(8, 8))


# ---------------------------------------------------------------------------------------------------------------------
# 8-bit floats


@pytest.mark.parametrize("scale_type", FLOAT_TYPES)
@pytest.mark.parametrize("shape", [(32, 48), (3, 32, 48)])
def test_fp8_blocks_are_those_of_transformers(tmp_path, shape, scale_type):
    weight = fp8(*shape)
    scale = torch.rand(*shape[:-2], 2, 6).to(scale_type)
    expected = Fp8Dequantize(None)._dequantize_one(weight, scale)
    tensors = {"x.weight": weight, "x.weight_scale_inv": scale, "x.input_scale": torch.ones(1), "x.bias": torch.ones(32)}
    got = read(tmp_path, tensors, quant_method="fp8", weight_block_size=[16, 8], activation_scheme="dynamic")
    assert set(got) == {"x.weight", "x.bias"}
    assert_equal(got["x.weight"], expected)


def test_fp8_blocks_at_the_ends_are_partial(tmp_path):
    weight, scale = fp8(300, 200), torch.rand(3, 2)
    expected = weight.float() * scale.repeat_interleave(128, 0)[:300].repeat_interleave(128, 1)[:, :200]
    tensors = {"x.weight": weight, "x.weight_scale_inv": scale}
    assert_equal(read(tmp_path, tensors, quant_method="fp8", weight_block_size=[128, 128])["x.weight"], expected)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("shape", [(), (1,), (32,), (32, 1)])
def test_fp8_of_one_scale_or_one_a_row(tmp_path, shape, dtype):
    weight, scale = fp8(32, 48, dtype=dtype), torch.rand(shape) + 0.1
    expected = weight.float() * (scale if scale.numel() == 1 else scale.reshape(32, 1))
    tensors = {"x.weight": weight, "x.weight_scale": scale, "x.input_scale": torch.ones(())}
    assert_equal(read(tmp_path, tensors, quant_method="fp8", activation_scheme="static")["x.weight"], expected)


# ---------------------------------------------------------------------------------------------------------------------
# compressed-tensors


@pytest.mark.parametrize("scale_type", FLOAT_TYPES)
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group", "block"])
@pytest.mark.parametrize("kind", ["float-quantized", "int-quantized"])
def test_compressed_tensors_in_8_bits(tmp_path, kind, strategy, scale_type):
    rows, columns = (40, 48) if strategy == "block" else (32, 48)
    integer = kind == "int-quantized"
    weight = torch.randint(-128, 128, (rows, columns), dtype=torch.int8) if integer else fp8(rows, columns)
    scale = (torch.rand(grid(strategy, rows, columns)) + 0.01).to(scale_type)
    tensors = {"x.weight": weight, "x.weight_scale": scale}
    zero = torch.zeros(scale.shape, dtype=torch.int8)
    if integer:
        zero = tensors["x.weight_zero_point"] = torch.randint(-128, 128, scale.shape, dtype=torch.int8)
    centred = weight.to(scale_type) - spread(zero.to(scale_type), strategy, rows, columns)
    groups = scheme(num_bits=8, strategy=strategy, block_structure=[16, 32] if strategy == "block" else None)
    got = read(tmp_path, tensors, quant_method="compressed-tensors", format=kind, config_groups=groups)
    assert_equal(got["x.weight"], centred * spread(scale, strategy, rows, columns))


@pytest.mark.parametrize(("strategy", "symmetric"), [("tensor", True), ("channel", True), ("channel", False), ("group", False)])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
def test_compressed_tensors_packed(tmp_path, bits, strategy, symmetric):
    tensors, expected = pack_quantized(bits, strategy, symmetric)
    config = {"format": "pack-quantized", "config_groups": scheme(num_bits=bits, strategy=strategy)}
    assert_equal(read(tmp_path, tensors, quant_method="compressed-tensors", **config)["x.weight"], expected)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("form", "bits", "kind"), [("pack-quantized", 4, "int"), ("pack-quantized", 3, "int"), ("float-quantized", 8, "float")]
)
def test_values_are_those_of_compressed_tensors(tmp_path, form, bits, kind, symmetric):
    compressors = pytest.importorskip("compressed_tensors.compressors")
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    symmetric = symmetric or kind == "float"
    arguments = QuantizationArgs(num_bits=bits, type=kind, strategy="group", group_size=16, symmetric=symmetric)
    theirs = compressors.BaseCompressor.get_value_from_registry(form)
    rule = QuantizationScheme(targets=["Linear"], weights=arguments)
    state = {"weight": torch.randn(40, 48).bfloat16(), "weight_scale": (torch.rand(40, 3) * 0.2 + 0.01).bfloat16()}
    if not symmetric:
        state["weight_zero_point"] = torch.randint(-2, 3, (40, 3), dtype=torch.int8)
    small = theirs.compress(state, rule)
    expected = theirs.decompress(small, rule)["weight"]
    tensors = {f"x.{name}": tensor for name, tensor in small.items() if tensor is not None}
    groups = scheme(num_bits=bits, strategy="group", group_size=16)
    got = read(tmp_path, tensors, quant_method="compressed-tensors", format=form, config_groups=groups)
    assert_equal(got["x.weight"], expected)


# ---------------------------------------------------------------------------------------------------------------------
# bitsandbytes


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_nf4(tmp_path, dtype, nested):
    tensors, expected = bnb_4bit(dtype, nested)
    got = read(tmp_path, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    assert set(got) == {"x.weight"}
    assert_equal(got["x.weight"], expected)


@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16])
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("shape", [(96, 128), (16, 21)])
def test_four_bits_are_those_of_bitsandbytes(tmp_path, shape, kind, dtype, nested, storage):
    bnb = pytest.importorskip("bitsandbytes")
    # Rows of whole blocks, or of odd length: for others its CPU kernel (0.50) takes other scales than its quantizer wrote.
    weight = torch.randn(*shape).to(dtype)
    small, state = bnb.functional.quantize_4bit(
        weight, blocksize=64, quant_type=kind, compress_statistics=nested, quant_storage=storage
    )
    expected = bnb.functional.dequantize_4bit(small, state)
    tensors = {"x.weight": small} | {f"x.weight.{name}": tensor for name, tensor in state.as_dict(packed=True).items()}
    got = read(tmp_path, tensors, quant_method="bitsandbytes", load_in_4bit=True)
    assert set(got) == {"x.weight"}
    assert_equal(got["x.weight"], expected)


def test_int8(tmp_path):
    tensors = bnb_int8()
    # bitsandbytes multiplies by the nearest 32-bit float to 1 / 127.
    expected = tensors["x.weight"] * tensors["x.SCB"][:, None] * 7.874015718698502e-3
    got = read(tmp_path, tensors, load_in_8bit=True)
    assert set(got) == {"x.weight"}
    assert_equal(got["x.weight"], expected)


def test_int8_is_that_of_bitsandbytes(tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    q, largest, _ = bnb.functional.int8_vectorwise_quant(torch.randn(40, 48).half())
    expected = bnb.functional.int8_vectorwise_dequant(q, largest)
    assert_equal(read(tmp_path, {"x.weight": q, "x.SCB": largest}, quant_method="bitsandbytes")["x.weight"], expected)


# ---------------------------------------------------------------------------------------------------------------------
# MXFP4


def test_mxfp4_is_that_of_transformers(tmp_path):
    tensors = mxfp4() | {"experts.gate_up_proj_bias": torch.ones(3, 6)}
    expected = convert_moe_packed_tensors(tensors["experts.gate_up_proj_blocks"], tensors["experts.gate_up_proj_scales"])
    got = read(tmp_path, tensors, quant_method="mxfp4", modules_to_not_convert=["lm_head"])
    assert set(got) == {"experts.gate_up_proj", "experts.gate_up_proj_bias"}
    assert expected.shape == (3, 64, 6)
    assert_equal(got["experts.gate_up_proj"], expected)


def test_mxfp4_of_every_exponent(tmp_path):
    scales = torch.arange(256, dtype=torch.uint8).reshape(1, 8, 32)
    tensors = {"x_blocks": torch.arange(16, dtype=torch.uint8).mul(17).expand(1, 8, 32, 16), "x_scales": scales}
    expected = convert_moe_packed_tensors(tensors["x_blocks"], scales, dtype=torch.float32)
    assert_equal(read(tmp_path, tensors, quant_method="mxfp4")["x"], expected)


def test_without_a_quantization_all_passes_through(tmp_path):
    save_file({"x.qweight": torch.ones(2)}, tmp_path / "x.safetensors")
    tensors = read_safetensors(tmp_path / "x.safetensors").tensors
    assert read_quantized(tensors, {}, "config.json") == tensors
