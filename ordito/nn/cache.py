"""The KV cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ordito.errors import ContextError

MARGIN = 64
"""Tokens that sliding-window layers keep beyond their window: the cache can be rewound by that many without a new prefill."""


class Cache:
    """A KV cache for `capacity` tokens of B sequences: their positions (B, capacity), and two tensors per attention (a slot).

    `shapes` are the `cache_shapes` of each attention: keys and values (G, H), or a latent (R,) and a rotary key. All rows have
    the same length: padding takes a place too, with position -1, and is masked. `source` holds the keys and values of an
    encoder's states, by slot of the cross-attention.

    `spans` is how many tokens each attention sees at most (None: all). A slot with a span keeps that many tokens, `MARGIN`
    more, and room for `chunk` new ones, the most that one forward pass may add. Such a cache cannot hold padded sequences.
    """

    def __init__(
        self,
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        spans: Sequence[int | None] = (),
        chunk: int = 1,
    ) -> None:
        self.capacity, self.length, self.padded = capacity, 0, False
        self.source: dict[int, tuple[Tensor, Tensor]] = {}
        self.positions_BS = torch.full((batch, capacity), -1, dtype=torch.long, device=device)
        self.spans = list(spans) or [None] * len(shapes)
        self.starts = [0] * len(shapes)  # index of the first token that each slot still holds
        # empty, not zeros: pages that are not written take no memory, and places without a token are never read.
        rooms = [capacity if span is None else span - 1 + MARGIN + chunk for span in self.spans]
        self.slots = [
            tuple(torch.empty(batch, room, *shape, dtype=dtype, device=device) for shape in pair)
            for pair, room in zip(shapes, rooms, strict=True)
        ]

    def counts(self) -> Tensor:
        """Cached tokens per row without padding, (B,)."""
        return (self.positions_BS >= 0).sum(dim=1)

    def extend(self, positions_BT: Tensor, *, padded: bool = False) -> Tensor:
        """Add the positions (B, T) of new tokens, `padded` if some are padding; returns the positions of all keys, (B, S).

        Raises `ContextError` beyond the capacity.
        """
        start, end = self.length, self.length + positions_BT.shape[1]
        if end > self.capacity:
            raise ContextError(f"the cache holds {self.capacity} tokens, but {end} were given: start a longer session")
        self.positions_BS[:, start:end] = positions_BT
        self.length, self.padded = end, self.padded or padded
        return self.positions_BS[:, :end]

    def append(self, slot: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Store the keys and values of new tokens in a slot, (B, T, ...) each; returns all that it holds, (B, S, ...) each.

        In a slot with a span, these may be the last S tokens only. Call `extend` first.
        """
        before = self.length - new[0].shape[1]
        held, span = before - self.starts[slot], self.spans[slot]
        if span is not None and held + new[0].shape[1] > self.slots[slot][0].shape[1]:
            kept = min(held, span - 1 + MARGIN)
            for store in self.slots[slot]:
                store[:, :kept] = store[:, held - kept : held].clone()
            self.starts[slot], held = before - kept, kept
        end = self.length - self.starts[slot]
        for store, values in zip(self.slots[slot], new, strict=True):
            store[:, held:end] = values
        return tuple(store[:, :end] for store in self.slots[slot])

    def grow(self, capacity: int) -> None:
        """Raise the capacity, keeping all tokens; slot by slot, so that only one slot is in memory twice at a time."""
        room = self.positions_BS.new_full((self.positions_BS.shape[0], capacity - self.capacity), -1)
        self.positions_BS = torch.cat((self.positions_BS, room), dim=1)
        for number, pair in enumerate(self.slots):
            if self.spans[number] is None:
                self.slots[number] = tuple(self._grown(store, capacity) for store in pair)
        self.capacity = capacity

    def _grown(self, store: Tensor, capacity: int) -> Tensor:
        grown = store.new_empty(store.shape[0], capacity, *store.shape[2:])
        grown[:, : self.length] = store[:, : self.length]
        return grown

    def rewind(self, length: int) -> None:
        """Truncate to the first `length` places, or to none if a slot with a span has dropped tokens that it then needs."""
        spans = zip(self.starts, self.spans, strict=True)
        if any(span is not None and start > max(0, length - span + 1) for start, span in spans):
            length = 0
        if length == 0:
            self.starts = [0] * len(self.starts)
        self.positions_BS[:, length:] = -1
        self.length = min(self.length, length)
