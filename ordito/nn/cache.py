"""Keys and values of the tokens that were already read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ordito.errors import ContextError

MARGIN = 64
"""Tokens that windowed layers keep beyond their window, so that a few can be taken back without reading again."""


class Cache:
    """Room for `capacity` tokens of B sequences: their positions, and two tensors for each attention.

    An attention says what it keeps of a token (`cache_shapes`): keys and values (G, H), or a latent and its rotary key.
    Rows of unequal length share one clock: padding takes a place, at position -1, and is never seen. `source` holds what each
    cross-attention keeps of the encoder's states, by its slot.

    `spans` says how many tokens each attention looks back on at most (None: on all); of these it keeps no more than that, a
    margin, and `piece`, the most tokens that are read at once. Only sequences without padding can be cut so.
    """

    def __init__(
        self,
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
        spans: Sequence[int | None] = (),
        piece: int = 1,
    ) -> None:
        self.capacity, self.length, self.padded = capacity, 0, False
        self.source: dict[int, tuple[Tensor, Tensor]] = {}
        self.positions_BS = torch.full((batch, capacity), -1, dtype=torch.long, device=device)
        # Not set to zeros: what is not written takes no memory, and is never read.
        self.spans = list(spans) or [None] * len(shapes)
        self.starts = [0] * len(shapes)  # the place of the first token that each slot still has
        rooms = [capacity if span is None else span - 1 + MARGIN + piece for span in self.spans]
        self.slots = [
            tuple(torch.empty(batch, room, *shape, dtype=dtype, device=device) for shape in pair)
            for pair, room in zip(shapes, rooms, strict=True)
        ]

    def counts(self) -> Tensor:
        """How many tokens of each row are cached, padding left out, (B,)."""
        return (self.positions_BS >= 0).sum(dim=1)

    def extend(self, positions_BT: Tensor, *, padded: bool = False) -> Tensor:
        """Take places for T new tokens, `padded` if some are not there; returns the positions of all keys, (B, S).

        Raises `ContextError` beyond the capacity.
        """
        start, end = self.length, self.length + positions_BT.shape[1]
        if end > self.capacity:
            raise ContextError(f"the cache holds {self.capacity} tokens, but {end} were given: start a longer session")
        self.positions_BS[:, start:end] = positions_BT
        self.length, self.padded = end, self.padded or padded
        return self.positions_BS[:, :end]

    def append(self, slot: int, *new: Tensor) -> tuple[Tensor, ...]:
        """Store what one attention keeps of the new tokens, each (B, T, ...); returns all that it has, (B, S, ...).

        What lies beyond its span may be gone: they are then the last S keys of those that there are.
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
        """Make room for more tokens, keeping what is there; one slot at a time, so that little is there twice."""
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
        """Forget all but the first `length` places; or all, if a window no longer has what it would look back on from there."""
        spans = zip(self.starts, self.spans, strict=True)
        if any(span is not None and start > max(0, length - span + 1) for start, span in spans):
            length = 0
        if length == 0:
            self.starts = [0] * len(self.starts)
        self.positions_BS[:, length:] = -1
        self.length = min(self.length, length)
