"""What all layers of one forward pass share: positions, masks, rotary angles and the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ordito.nn.cache import Cache
from ordito.spec import Attention, Rope

PADDING = -1
"""The position of a token that is not there: it is seen by nobody, whatever side of the text it stands on."""


@dataclass
class Step:
    """One forward pass over T new tokens, seeing S key positions (the cached ones and the new ones).

    Positions alone say who sees whom, so that rows of unequal length, padding on either side and cached keys need no
    cases of their own. Masks and angles are made once and shared by the layers that want the same.
    """

    q_positions_BT: Tensor
    k_positions_BS: Tensor
    length: int
    dtype: torch.dtype
    cache: Cache | None = None
    masks: dict[tuple[bool, int | None, int | None], Tensor] = field(default_factory=dict)
    angles: dict[Rope, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def visible(self, block: Attention) -> Tensor:
        """Who sees whom in `block`, (B, 1, T, S), true where query t may look at key s."""
        return self.mask(block.causal, block.window, block.chunk)

    def mask(self, causal: bool, window: int | None = None, chunk: int | None = None) -> Tensor:
        """The mask of one kind of attention, (B, 1, T, S)."""
        key = (causal, window, chunk)
        if key not in self.masks:
            q_BT1, k_B1S = self.q_positions_BT[:, :, None], self.k_positions_BS[:, None, :]
            seen = k_B1S >= 0
            if causal:
                seen = seen & (k_B1S <= q_BT1)
            if window is not None:
                seen = seen & ((q_BT1 - k_B1S).abs() < window)
            if chunk is not None:
                seen = seen & (q_BT1 // chunk == k_B1S // chunk)
            # A padded query sees everything: what it computes is never used, but a row without keys would be NaN.
            self.masks[key] = (seen | (q_BT1 < 0))[:, None]
        return self.masks[key]

    def cos_sin(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles of the new tokens, each (B, 1, T, dim / 2), in fp32 until the last."""
        if rope not in self.angles:
            frequencies = torch.tensor(rope.frequencies(self.length), dtype=torch.float32, device=self.q_positions_BT.device)
            angles = self.q_positions_BT[:, None, :, None].float() * frequencies
            self.angles[rope] = (angles.cos() * rope.magnitude).to(self.dtype), (angles.sin() * rope.magnitude).to(self.dtype)
        return self.angles[rope]


def rotate(x_BNTH: Tensor, rope: Rope, step: Step) -> Tensor:
    """Turn the first `rope.dim` channels of every head by its token's angles; the others pass through."""
    cos, sin = step.cos_sin(rope)
    turned, kept = x_BNTH[..., : rope.dim], x_BNTH[..., rope.dim :]
    if rope.layout == "half":
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned
