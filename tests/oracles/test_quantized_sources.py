"""Safetensors that other libraries quantized: every value is that library's, and hostile files are refused.

Where a library runs here it is the oracle (transformers always; bitsandbytes and compressed-tensors if they are installed).
GPTQ and AWQ are packed by the published rules, one integer at a time, beside vectors that their libraries made.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.checkpoint.quantized import read_quantized
from ordito.checkpoint.safetensors import read_safetensors
from ordito.errors import CheckpointError, ConfigError, OrditoError
from ordito.families import spec_from_config
from ordito.nn.runtime import load_transformer

FLOAT_TYPES = [torch.float16, torch.bfloat16, torch.float32]


def read(path, tensors, **config):
    """The tensors after a way through a file, quantized as `config` says."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "x.safetensors")
    return read_quantized(read_safetensors(path / "x.safetensors").tensors, {"quantization_config": config}, "config.json")


def assert_equal(tensor, expected):
    got = tensor.to_float32()
    assert got.dtype == np.float32
    assert tensor.shape == got.shape == tuple(expected.shape)
    np.testing.assert_array_equal(got, expected.float().numpy())


def packed(rows, bits):
    """Each row's integers end to end in one long number, lowest first, cut into 32-bit words: the rule of GPTQ and others."""
    words = -(-rows.shape[1] * bits // 32)
    numbers = [sum(int(q) << (bits * place) for place, q in enumerate(row)) for row in rows]
    return torch.tensor([[number >> (32 * word) & 0xFFFFFFFF for word in range(words)] for number in numbers]).to(torch.int32)


# ---------------------------------------------------------------------------------------------------------------------
# GPTQ

GROUP, INPUTS, OUTPUTS = 32, 96, 64


def gptq(bits, dtype=torch.float16, first=True, sorted_columns=True, inputs=INPUTS, outputs=OUTPUTS, group=GROUP):
    """A random module: its tensors, and its weight computed in the type of the scales."""
    random = torch.Generator().manual_seed(bits)
    groups = -(-inputs // group)
    q = torch.randint(0, 1 << bits, (inputs, outputs), generator=random)
    zero = torch.randint(0, 1 << bits, (groups, outputs), generator=random)
    scales = (torch.rand(groups, outputs, generator=random) + 0.01).to(dtype)
    group_of = torch.arange(inputs) // group
    if not sorted_columns:
        group_of = group_of[torch.randperm(inputs, generator=random)]
    tensors = {
        "x.qweight": packed(q.T, bits).T,
        "x.qzeros": packed((zero - int(first)) % (1 << bits), bits),
        "x.scales": scales,
        "x.g_idx": group_of.to(torch.int32),
    }
    return tensors, ((q - zero[group_of]).to(dtype) * scales[group_of]).T


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


def awq(layout, dtype=torch.float16, inputs=96, outputs=64, group=32):
    random = torch.Generator().manual_seed(3)
    groups = inputs // group
    q = torch.randint(0, 16, (outputs, inputs), generator=random)
    zero = torch.randint(0, 16, (outputs, groups), generator=random)
    scales = (torch.rand(outputs, groups, generator=random) + 0.01).to(dtype)
    group_of = torch.arange(inputs) // group
    weight = (q - zero[:, group_of]).to(dtype) * scales[:, group_of]
    if layout == "gemv":
        width = 4  # words of zeros a row, more than are needed, as AutoAWQ pads them for groups of 32
        zero = torch.nn.functional.pad(zero, (0, width * 8 - groups))
        scales = torch.nn.functional.pad(scales, (0, width * 8 - groups))
        return {"x.qweight": packed(q, 4), "x.qzeros": packed(zero, 4), "x.scales": scales}, weight
    # AutoAWQ's `order_map`: nibble i of a word is its output order_map[i].
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def words(rows):
        return packed(rows.reshape(len(rows), -1, 8)[..., order].reshape(len(rows), -1), 4)

    return {"x.qweight": words(q.T), "x.qzeros": words(zero.T), "x.scales": scales.T}, weight


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


def fp8(*shape, dtype=torch.float8_e4m3fn):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 50).to(dtype)


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


def scheme(**weights):
    return {"group_0": {"targets": ["Linear"], "weights": weights}}


def grid(strategy, rows, columns):
    return {"tensor": (1,), "channel": (rows, 1), "group": (rows, columns // 16), "block": (-(-rows // 16), -(-columns // 32))}[
        strategy
    ]


def spread(values, strategy, rows, columns):
    """The grid at the size of the weight."""
    if strategy == "group":
        return values.repeat_interleave(16, 1)
    if strategy == "block":
        return values.repeat_interleave(16, 0)[:rows].repeat_interleave(32, 1)[:, :columns]
    return values.expand(rows, columns)


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


def pack_quantized(bits, strategy, symmetric, rows=40, columns=48):
    q = torch.randint(0, 1 << bits, (rows, columns))
    scale = (torch.rand(grid(strategy, rows, columns)) + 0.01).to(torch.bfloat16)
    zero = torch.full(scale.shape, 1 << (bits - 1))
    tensors = {"x.weight_packed": packed(q, bits), "x.weight_scale": scale, "x.weight_shape": torch.tensor([rows, columns])}
    if not symmetric:
        zero = torch.randint(0, 1 << bits, scale.shape)
        tensors["x.weight_zero_point"] = packed(zero.T, bits).T
    expected = (q - spread(zero, strategy, rows, columns)).bfloat16() * spread(scale, strategy, rows, columns)
    return tensors, expected


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

# The levels of QLoRA's appendix E, and of bitsandbytes' `get_4bit_type`.
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
       0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def bnb_4bit(dtype="float16", nested=True, shape=(15, 21), block=64, nested_block=4):
    """A random weight in 4 bits: its tensors, and its values by the formula. Neither kind of block is whole at the end."""
    count = shape[0] * shape[1]
    blocks = -(-count // block)
    codes = torch.randint(0, 16, (count,))
    even = torch.nn.functional.pad(codes, (0, count % 2)).to(torch.uint8)
    state = {"quant_type": "nf4", "blocksize": block, "shape": list(shape), "dtype": dtype}
    tensors = {"x.weight": (even[::2] << 4 | even[1::2])[:, None], "x.weight.quant_map": torch.tensor(NF4)}
    if nested:
        state |= {"nested_blocksize": nested_block, "nested_offset": 0.25, "nested_dtype": "float32"}
        absmax = torch.randint(0, 256, (blocks,), dtype=torch.uint8)
        nested_map, nested_absmax = torch.linspace(-1, 1, 256), torch.rand(-(-blocks // nested_block))
        tensors |= {"x.weight.nested_quant_map": nested_map, "x.weight.nested_absmax": nested_absmax}
        scales = nested_map[absmax.long()] * nested_absmax.repeat_interleave(nested_block)[:blocks] + 0.25
    else:
        absmax = scales = torch.rand(blocks)
    tensors["x.weight.absmax"] = absmax
    tensors["x.weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)
    values = torch.tensor(NF4)[codes] * scales.repeat_interleave(block)[:count]
    return tensors, values.to(getattr(torch, dtype)).reshape(shape)


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


def bnb_int8():
    q, largest = torch.randint(-127, 128, (40, 48), dtype=torch.int8), torch.rand(40) + 0.1
    return {"x.weight": q, "x.SCB": largest, "x.weight_format": torch.tensor(0, dtype=torch.uint8)}


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


def mxfp4(experts=3, rows=6, groups=2):
    random = torch.Generator().manual_seed(9)
    blocks = torch.randint(0, 256, (experts, rows, groups, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(100, 140, (experts, rows, groups), generator=random, dtype=torch.uint8)
    return {"experts.gate_up_proj_blocks": blocks, "experts.gate_up_proj_scales": scales}


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


# ---------------------------------------------------------------------------------------------------------------------
# Whole models


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


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


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


def test_without_a_quantization_all_passes_through(tmp_path):
    save_file({"x.qweight": torch.ones(2)}, tmp_path / "x.safetensors")
    tensors = read_safetensors(tmp_path / "x.safetensors").tensors
    assert read_quantized(tensors, {}, "config.json") == tensors


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
