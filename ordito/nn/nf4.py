"""NF4: frozen 4-bit weights beneath adapters, with double quantization of the scales (QLoRA, arXiv:2305.14314).

    w[i] = LEVELS[code[i]] * scale[i // 64]              codes of 4 bits, the first of two in the high half of a byte
    scale[j] = SCALES[c[j]] * absmax[j // 256] + mean    codes of 8 bits; `mean` is the mean of the tensor's scales

An element is divided by the largest magnitude (absmax) of its block, which is the scale, and rounded to the nearest level. The
codes are those of bitsandbytes, bit for bit (its `backends/default/ops.py`, `functional.py`): 4.13 bits per element in all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from ordito.nn.feedforward import StackedLinear
from ordito.nn.norm import Linear

BLOCK = 64
"""Elements per scale."""
SCALE_BLOCK = 256
"""Scales per scale of the second quantization."""
CHUNK = 1 << 18
"""Elements that are quantized or dequantized at once, which bounds the memory of intermediate results."""
MIN_SCALE = 1e-38
"""The divisor of a block of zeros."""

LEVELS = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
"""The levels of NF4, ascending, (16,), fp32: quantiles of the normal distribution, and 0 (appendix E of the paper)."""


def _scale_levels() -> Tensor:
    """Levels of the scales, ascending, (256,), fp32: the 8-bit dynamic data type (arXiv:1511.04561).

    For each sign and each decade 10^-6 ... 1: the centres of equal parts of [0.1, 1] times the decade, twice as many as in the
    decade before; and 0 and 1.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        centres = (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        levels += centres + [-centre for centre in centres]
    return torch.tensor(sorted(levels), dtype=torch.float32)


SCALES = _scale_levels()
LEVEL_PAIRS = torch.stack((LEVELS.repeat_interleave(16), LEVELS.repeat(16)), dim=1).view(torch.int64).flatten()
"""The two fp32 levels of each byte of codes, seen as one int64, (256,): one look-up dequantizes two elements."""


def quantize_blocks(values: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes (n,), uint8, and absmax of each block, fp32, of values (n,); the last block may be shorter."""
    parts = [_quantize_chunk(part, levels.to(values.device), block) for part in torch.split(values, CHUNK)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([absmax for _, absmax in parts])


def _quantize_chunk(values: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    whole = len(values) // block * block
    blocks, rest = values[:whole].float().view(-1, block), values[whole:].float()
    absmax = blocks.abs().amax(dim=1)
    shares = (blocks * (1.0 / absmax.clamp(min=MIN_SCALE))[:, None]).flatten()
    if len(rest):
        # A division here but a reciprocal above, as in bitsandbytes: the last bit of the quotient may decide on the level.
        last = rest.abs().max().clamp(min=MIN_SCALE)
        absmax, shares = torch.cat((absmax, last[None])), torch.cat((shares, rest / last))
    codes = torch.bucketize(shares.clamp(-1, 1), (levels[:-1] + levels[1:]) / 2, out_int32=True)
    return codes.to(torch.uint8), absmax


def scale_blocks(values: Tensor, scales: Tensor, block: int) -> Tensor:
    """values[i] * scales[i // block], (n,), in place; the last block may be shorter."""
    whole = len(values) // block * block
    values[:whole].view(-1, block).mul_(scales[: whole // block, None])
    values[whole:].mul_(scales[whole // block :])
    return values


class Nf4(nn.Module):
    """A frozen weight (out, in) in NF4. Its codes are not in the state dict: they are computed from the base's weights."""

    codes: Tensor
    scale_codes: Tensor
    absmax: Tensor
    mean: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape, self.dtype = tuple(weight.shape), weight.dtype
        codes, scales = quantize_blocks(weight.detach().flatten(), LEVELS, BLOCK)
        high, low = F.pad(codes, (0, len(codes) % 2), value=7).view(-1, 2).unbind(1)
        mean = scales.mean()
        scale_codes, absmax = quantize_blocks(scales - mean, SCALES, SCALE_BLOCK)
        found = {"codes": (high << 4) | low, "scale_codes": scale_codes, "absmax": absmax, "mean": mean}
        for name, tensor in found.items():
            self.register_buffer(name, tensor, persistent=False)

    def weight(self) -> Tensor:
        """The weight (out, in), dequantized anew at every call."""
        device = self.codes.device
        scales = SCALES.to(device).index_select(0, self.scale_codes.int())
        scales = scale_blocks(scales, self.absmax, SCALE_BLOCK).add_(self.mean)
        pairs = torch.empty(len(self.codes), dtype=torch.int64, device=device)
        for codes, found in zip(torch.split(self.codes, CHUNK), torch.split(pairs, CHUNK), strict=True):
            torch.index_select(LEVEL_PAIRS.to(device), 0, codes.int(), out=found)
        values = pairs.view(torch.float32)[: prod(self.shape)]
        return scale_blocks(values, scales, BLOCK).view(self.shape).to(self.dtype)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """W x + bias, (..., in) -> (..., out). The backward pass dequantizes W again: only codes are kept for it."""
        y: Tensor = _Nf4Linear.apply(x, self, bias)  # type: ignore[no-untyped-call]
        return y


class _Nf4Linear(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Nf4, bias: Tensor | None) -> Tensor:
        ctx.frozen, ctx.dtype = frozen, x.dtype
        return F.linear(x, frozen.weight(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_x = (grad @ ctx.frozen.weight().to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None


class Nf4Linear(Linear):
    """A linear map with a frozen NF4 weight."""

    def __init__(self, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.frozen, self.bias = Nf4(linear.weight), linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in), dequantized anew at every call."""
        return self.frozen.weight()

    def base(self, x: Tensor) -> Tensor:
        """W x + b, without adapters."""
        y: Tensor = self.frozen(x, self.bias)
        return y


class Nf4StackedLinear(StackedLinear):
    """Stacked linear maps with frozen NF4 weights, each quantized by itself."""

    def __init__(self, maps: StackedLinear) -> None:
        nn.Module.__init__(self)
        self._frozen = [Nf4(weight) for weight in maps.weight]
        self.frozen, self.bias = nn.ModuleList(self._frozen), maps.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(E, out, in), dequantized anew at every call."""
        return torch.stack([frozen.weight() for frozen in self._frozen])

    def base(self) -> Callable[[int, Tensor], Tensor]:
        """A function (e, x (n, in)) -> (n, out): x through the e-th map, without adapters."""
        return lambda e, x_n: self._frozen[e].forward(x_n, None if self.bias is None else self.bias[e])


def quantize_linears(module: nn.Module, paths: list[str]) -> None:
    """Replace the linear maps at `paths` by NF4 ones, one at a time, so that at most one weight is in memory twice.

    Maps that are NF4 already are left alone.
    """
    for path in paths:
        owner, _, name = path.rpartition(".")
        found = module.get_submodule(path)
        if isinstance(found, (Nf4Linear, Nf4StackedLinear)):
            continue
        assert isinstance(found, (Linear, StackedLinear)), f"{path} is a {type(found).__name__}"
        quantized = Nf4StackedLinear(found) if isinstance(found, StackedLinear) else Nf4Linear(found)
        setattr(module.get_submodule(owner), name, quantized.train(found.training))
