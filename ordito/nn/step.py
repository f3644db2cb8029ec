"""What all layers of one forward pass share: positions, masks, rotary angles and the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ordito.nn.cache import Cache
from ordito.nn.lean import turn
from ordito.spec import Attention, BlockSparse, Rope, Temperature

PADDING = -1
"""The position of a token that is not there: it is seen by nobody, whatever side of the text it stands on."""


@dataclass
class Step:
    """One forward pass over T new tokens, seeing S key positions (the cached ones and the new ones).

    Positions alone say who sees whom, so that rows of unequal length, padding on either side and cached keys need no
    cases of their own. Masks, angles, temperatures and relative biases are made once and shared by the layers that want the
    same. `source_BSD` are an encoder's states, `source_valid_BS` says which of them are there. With `documents_BT` several
    texts share a row, each with positions of its own, and see nothing of each other.
    """

    q_positions_BT: Tensor
    k_positions_BS: Tensor
    length: int
    dtype: torch.dtype
    cache: Cache | None = None
    source_BSD: Tensor | None = None
    source_valid_BS: Tensor | None = None
    documents_BT: Tensor | None = None
    masks: dict[tuple[bool, int | None, int | None, BlockSparse | None, int], Tensor] = field(default_factory=dict)
    relative_bias: Tensor | None = None
    angles: dict[Rope, tuple[Tensor, Tensor]] = field(default_factory=dict)
    temperatures: dict[Temperature, Tensor] = field(default_factory=dict)

    def visible(self, block: Attention) -> Tensor:
        """Who sees whom in `block`, (B, 1 or N, T, S), true where query t may look at key s."""
        if block.cross:
            valid_BS = self.source_valid_BS
            if valid_BS is None:
                assert self.source_BSD is not None, "cross-attention needs a source"
                valid_BS = torch.ones(self.source_BSD.shape[:2], dtype=torch.bool, device=self.source_BSD.device)
            return valid_BS[:, None, None, :].expand(-1, 1, self.q_positions_BT.shape[1], -1)
        heads = block.n_heads if block.block_sparse else 1
        return self.mask(block.causal, block.window, block.chunk, block.block_sparse, heads)

    def mask(
        self,
        causal: bool,
        window: int | None = None,
        chunk: int | None = None,
        sparse: BlockSparse | None = None,
        heads: int = 1,
    ) -> Tensor:
        """The mask of one kind of attention, (B, 1, T, S), or (B, N, T, S) where each head has its own."""
        key = (causal, window, chunk, sparse, heads)
        if key not in self.masks:
            q_B1T1, k_B11S = self.q_positions_BT[:, None, :, None], self.k_positions_BS[:, None, None, :]
            seen = k_B11S >= 0
            if self.documents_BT is not None:
                seen = seen & (self.documents_BT[:, None, :, None] == self.documents_BT[:, None, None, :])
            if causal:
                seen = seen & (k_B11S <= q_B1T1)
            if window is not None:
                seen = seen & ((q_B1T1 - k_B11S).abs() < window)
            if chunk is not None:
                seen = seen & (q_B1T1 // chunk == k_B11S // chunk)
            if sparse is not None:
                head_N11 = torch.arange(heads, device=seen.device)[:, None, None]
                q_block, k_block = q_B1T1 // sparse.block, k_B11S // sparse.block
                seen = seen & ((q_block - k_block < sparse.local) | ((k_block + head_N11 + 1) % sparse.stride == 0))
            # A padded query sees everything: what it computes is never used, but a row without keys would be NaN.
            self.masks[key] = seen | (q_B1T1 < 0)
        return self.masks[key]

    def temperature(self, scaling: Temperature) -> Tensor:
        """The factors of the new tokens' queries, (B, 1, T, 1)."""
        if scaling not in self.temperatures:
            factors = torch.tensor([scaling.factor(p) for p in range(self.length)], device=self.q_positions_BT.device)
            self.temperatures[scaling] = factors[self.q_positions_BT.clamp(min=0)][:, None, :, None].to(self.dtype)
        return self.temperatures[scaling]

    def cos_sin(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the angles of the new tokens, each (B, 1, T, dim / 2), in fp32 until the last."""
        if rope not in self.angles:
            frequencies = torch.tensor(rope.frequencies(self.length), dtype=torch.float32, device=self.q_positions_BT.device)
            angles = self.q_positions_BT[:, None, :, None].float() * frequencies
            magnitude = rope.magnitude(self.length)
            self.angles[rope] = (angles.cos() * magnitude).to(self.dtype), (angles.sin() * magnitude).to(self.dtype)
        return self.angles[rope]


def rotate(x_BNTH: Tensor, rope: Rope, step: Step) -> Tensor:
    """Turn the first `rope.dim` channels of every head by its token's angles; the others pass through."""
    cos, sin = step.cos_sin(rope)
    by_runtime = turn(x_BNTH, cos, sin, rope.layout != "half")
    if by_runtime is not None:
        return by_runtime
    turned, kept = x_BNTH[..., : rope.dim], x_BNTH[..., rope.dim :]
    if rope.layout == "half":
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned
