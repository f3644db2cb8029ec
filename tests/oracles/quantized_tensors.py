"""Random modules as other libraries quantize them: their tensors, and what the weights are, by the published formulas."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

from ordito.checkpoint.quantized import read_quantized
from ordito.checkpoint.safetensors import read_safetensors


def read(path, tensors, **config):
    """The tensors after a way through a file, quantized as `config` says."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "x.safetensors")
    return read_quantized(read_safetensors(path / "x.safetensors").tensors, {"quantization_config": config}, "config.json")


def packed(rows, bits):
    """Each row's integers end to end in one long number, lowest first, cut into 32-bit words: the rule of GPTQ and others."""
    words = -(-rows.shape[1] * bits // 32)
    numbers = [sum(int(q) << (bits * place) for place, q in enumerate(row)) for row in rows]
    return torch.tensor([[number >> (32 * word) & 0xFFFFFFFF for word in range(words)] for number in numbers]).to(torch.int32)


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


def fp8(*shape, dtype=torch.float8_e4m3fn):
    return (torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 50).to(dtype)


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


def bnb_int8():
    q, largest = torch.randint(-127, 128, (40, 48), dtype=torch.int8), torch.rand(40) + 0.1
    return {"x.weight": q, "x.SCB": largest, "x.weight_format": torch.tensor(0, dtype=torch.uint8)}


def mxfp4(experts=3, rows=6, groups=2):
    random = torch.Generator().manual_seed(9)
    blocks = torch.randint(0, 256, (experts, rows, groups, 16), generator=random, dtype=torch.uint8)
    scales = torch.randint(100, 140, (experts, rows, groups), generator=random, dtype=torch.uint8)
    return {"experts.gate_up_proj_blocks": blocks, "experts.gate_up_proj_scales": scales}
