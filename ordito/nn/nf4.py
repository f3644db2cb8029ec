"""Weights of 4 bits beneath adapters (QLoRA, https://arxiv.org/abs/2305.14314): NF4 with doubly quantized scales.

    w[i] = LEVELS[code[i]] * scale[i // 64]                    a code has 4 bits, the first of a byte is its high half
    scale[j] = SCALES[c[j]] * largest[j // 256] + mean         a scale has 8 bits, the mean is that of the tensor's scales

The codes are those of bitsandbytes, bit for bit (its `backends/default/ops.py`, `functional.py`): an element is divided by the
largest magnitude of its block and takes the nearest level. Together that is 4.13 bits an element instead of 32.
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
"""Elements that share a scale."""
SCALE_BLOCK = 256
"""Scales that share a scale of their own."""
PIECE = 1 << 18
"""Elements that are turned at once, so that what is made on the way stays small."""
SMALLEST = 1e-38
"""What a block of zeros is divided by."""

LEVELS = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
"""Quantiles of the normal distribution, 0 among them (16,), fp32 (appendix E of the paper)."""


def _scale_levels() -> Tensor:
    """Levels of the scales, (256,), ascending ("dynamic" 8 bits, https://arxiv.org/abs/1511.04561).

    Of each sign and decade 10^-6 ... 1 the middles of equal parts of [0.1, 1], twice as many in each decade as in the one
    before; and 0 and 1.
    """
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        middles = (10.0 ** (decade - 6) * ((edges[:-1] + edges[1:]) / 2.0)).tolist()
        levels += middles + [-middle for middle in middles]
    return torch.tensor(sorted(levels), dtype=torch.float32)


SCALES = _scale_levels()
PAIRS = torch.stack((LEVELS.repeat_interleave(16), LEVELS.repeat(16)), dim=1).view(torch.int64).flatten()
"""What a byte stands for, (256,): two values, read as one number of 8 bytes, since that many are then found at once."""


def quantized(values: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Codes (n,), uint8, and the largest magnitude of each block, fp32, of values (n,); the last block may be shorter."""
    parts = [_quantized(part, levels.to(values.device), block) for part in torch.split(values, PIECE)]
    return torch.cat([codes for codes, _ in parts]), torch.cat([largest for _, largest in parts])


def _quantized(values: Tensor, levels: Tensor, block: int) -> tuple[Tensor, Tensor]:
    whole = len(values) // block * block
    blocks, rest = values[:whole].float().view(-1, block), values[whole:].float()
    largest = blocks.abs().amax(dim=1)
    shares = (blocks * (1.0 / largest.clamp(min=SMALLEST))[:, None]).flatten()
    if len(rest):
        # A division here and a reciprocal above, as bitsandbytes has it: the last bit may decide for a level.
        last = rest.abs().max().clamp(min=SMALLEST)
        largest, shares = torch.cat((largest, last[None])), torch.cat((shares, rest / last))
    codes = torch.bucketize(shares.clamp(-1, 1), (levels[:-1] + levels[1:]) / 2, out_int32=True)
    return codes.to(torch.uint8), largest


def blockwise(values: Tensor, scales: Tensor, block: int) -> Tensor:
    """values[i] * scales[i // block], (n,), in place; the last block may be shorter."""
    whole = len(values) // block * block
    values[:whole].view(-1, block).mul_(scales[: whole // block, None])
    values[whole:].mul_(scales[whole // block :])
    return values


class Nf4(nn.Module):
    """A frozen weight (out, in) in NF4. Its codes are no part of a state dict: they come of the base's weights."""

    codes: Tensor
    scale_codes: Tensor
    largest: Tensor
    mean: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape, self.dtype = tuple(weight.shape), weight.dtype
        codes, scales = quantized(weight.detach().flatten(), LEVELS, BLOCK)
        high, low = F.pad(codes, (0, len(codes) % 2), value=7).view(-1, 2).unbind(1)
        mean = scales.mean()
        scale_codes, largest = quantized(scales - mean, SCALES, SCALE_BLOCK)
        found = {"codes": (high << 4) | low, "scale_codes": scale_codes, "largest": largest, "mean": mean}
        for name, tensor in found.items():
            self.register_buffer(name, tensor, persistent=False)

    def weight(self) -> Tensor:
        """The weight (out, in), made anew at every call."""
        device = self.codes.device
        scales = SCALES.to(device).index_select(0, self.scale_codes.int())
        scales = blockwise(scales, self.largest, SCALE_BLOCK).add_(self.mean)
        pairs = torch.empty(len(self.codes), dtype=torch.int64, device=device)
        for codes, found in zip(torch.split(self.codes, PIECE), torch.split(pairs, PIECE), strict=True):
            torch.index_select(PAIRS.to(device), 0, codes.int(), out=found)
        values = pairs.view(torch.float32)[: prod(self.shape)]
        return blockwise(values, scales, BLOCK).view(self.shape).to(self.dtype)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """W x + bias, (..., in) -> (..., out), of which only the codes are kept for the backward pass."""
        y: Tensor = _Frozen.apply(x, self, bias)  # type: ignore[no-untyped-call]
        return y


class _Frozen(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: Nf4, bias: Tensor | None) -> Tensor:
        ctx.frozen, ctx.dtype = frozen, x.dtype
        return F.linear(x, frozen.weight(), bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_x = (grad @ ctx.frozen.weight().to(grad.dtype)).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None


class Nf4Linear(Linear):
    """A linear map whose weight is kept in NF4; `weight` makes it anew."""

    def __init__(self, linear: Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.frozen, self.bias = Nf4(linear.weight), linear.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(out, in), made anew at every call."""
        return self.frozen.weight()

    def plain(self, x: Tensor) -> Tensor:
        """W x + b, without what lies beside it."""
        y: Tensor = self.frozen(x, self.bias)
        return y


class Nf4StackedLinear(StackedLinear):
    """Stacked linear maps whose weights are kept in NF4, each apart; `weight` makes them anew."""

    def __init__(self, maps: StackedLinear) -> None:
        nn.Module.__init__(self)
        self._frozen = [Nf4(weight) for weight in maps.weight]
        self.frozen, self.bias = nn.ModuleList(self._frozen), maps.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """(E, out, in), made anew at every call."""
        return torch.stack([frozen.weight() for frozen in self._frozen])

    def plain(self) -> Callable[[int, Tensor], Tensor]:
        """(e, x (n, in)) -> (n, out), by the e-th map, without what lies beside it."""
        return lambda e, x_n: self._frozen[e].forward(x_n, None if self.bias is None else self.bias[e])


def quantize_linears(module: nn.Module, paths: list[str]) -> None:
    """Put NF4 in the place of the weights of linear maps, one after another, so that no more than one is there twice.

    Those that are in NF4 already are left alone.
    """
    for path in paths:
        owner, _, name = path.rpartition(".")
        found = module.get_submodule(path)
        if isinstance(found, (Nf4Linear, Nf4StackedLinear)):
            continue
        assert isinstance(found, (Linear, StackedLinear)), f"{path} is a {type(found).__name__}"
        made = Nf4StackedLinear(found) if isinstance(found, StackedLinear) else Nf4Linear(found)
        setattr(module.get_submodule(owner), name, made.train(found.training))
