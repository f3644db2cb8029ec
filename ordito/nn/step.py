"""What all layers of one forward pass share: positions, masks, rotary angles and the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ordito.nn.cache import Cache
from ordito.nn.lean import rotate_heads
from ordito.spec import Attention, BlockSparse, Rope, Temperature

PADDING = -1
"""The position of padding, on either side of a text: no query attends to it."""


@dataclass
class Step:
    """One forward pass: queries of T new tokens attend to S keys, those of cached tokens and of the new ones.

    Masks follow from positions alone, so that rows of unequal length, padding on either side and cached keys are not special
    cases. Masks, rotary angles, temperatures and relative biases are computed once and shared by all layers with the same
    settings. `source_BSD` are an encoder's hidden states, `source_valid_BS` is false at their padding. `documents_BT` numbers
    the texts of packed rows, which do not attend to each other; each has positions of its own. `length` is the number of
    positions, past ones included; `dtype` is that of activations.
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
        """The attention mask of `block`, (B, 1 or N, T, S), bool: true where query t attends to key s."""
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
        """The self-attention mask of these settings, bool, (B, 1, T, S), or (B, N, T, S) if `sparse`: each head has its own."""
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
            # Padded queries attend to everything: their output is never used, but softmax over no key would give NaN.
            self.masks[key] = seen | (q_B1T1 < 0)
        return self.masks[key]

    def temperature(self, scaling: Temperature) -> Tensor:
        """The factors that scale the queries of the new tokens, (B, 1, T, 1)."""
        if scaling not in self.temperatures:
            factors = torch.tensor([scaling.factor(p) for p in range(self.length)], device=self.q_positions_BT.device)
            self.temperatures[scaling] = factors[self.q_positions_BT.clamp(min=0)][:, None, :, None].to(self.dtype)
        return self.temperatures[scaling]

    def cos_sin(self, rope: Rope) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary angles of the new tokens, (B, 1, T, dim / 2) each, computed in fp32, in `dtype`."""
        if rope not in self.angles:
            frequencies = torch.tensor(rope.frequencies(self.length), dtype=torch.float32, device=self.q_positions_BT.device)
            angles = self.q_positions_BT[:, None, :, None].float() * frequencies
            magnitude = rope.magnitude(self.length)
            self.angles[rope] = (angles.cos() * magnitude).to(self.dtype), (angles.sin() * magnitude).to(self.dtype)
        return self.angles[rope]


def rotate(x_BNTH: Tensor, rope: Rope, step: Step) -> Tensor:
    """Rotary position embedding (RoFormer, arXiv:2104.09864) of x (B, N, T, H); channels beyond `rope.dim` pass through."""
    cos, sin = step.cos_sin(rope)
    by_runtime = rotate_heads(x_BNTH, cos, sin, rope.layout != "half")
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
