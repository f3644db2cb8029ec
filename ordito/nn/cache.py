"""Keys and values of the tokens that were already read."""

from __future__ import annotations

import torch
from torch import Tensor

from ordito.errors import ContextError


class Cache:
    """Room for `capacity` tokens of B sequences: their positions, and two tensors for each attention.

    An attention says what it keeps of a token (`cache_shapes`): keys and values (G, H), or a latent and its rotary key.
    Rows of unequal length share one clock: padding takes a place, at position -1, and is never seen. `source` holds what each
    cross-attention keeps of the encoder's states, by its slot.
    """

    def __init__(
        self,
        shapes: list[tuple[tuple[int, ...], tuple[int, ...]]],
        batch: int,
        capacity: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.capacity, self.length, self.padded = capacity, 0, False
        self.source: dict[int, tuple[Tensor, Tensor]] = {}
        self.positions_BS = torch.full((batch, capacity), -1, dtype=torch.long, device=device)
        # Not set to zeros: what is not written takes no memory, and is never read.
        self.slots = [
            tuple(torch.empty(batch, capacity, *shape, dtype=dtype, device=device) for shape in pair) for pair in shapes
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
        """Store what one attention keeps of the new tokens, each (B, T, ...); returns all that it has, (B, S, ...)."""
        end = self.length
        for store, values in zip(self.slots[slot], new, strict=True):
            store[:, end - values.shape[1] : end] = values
        return tuple(store[:, :end] for store in self.slots[slot])

    def grow(self, capacity: int) -> None:
        """Make room for more tokens, keeping what is there; one slot at a time, so that little is there twice."""
        room = self.positions_BS.new_full((self.positions_BS.shape[0], capacity - self.capacity), -1)
        self.positions_BS = torch.cat((self.positions_BS, room), dim=1)
        for number, pair in enumerate(self.slots):
            self.slots[number] = tuple(self._grown(store, capacity) for store in pair)
        self.capacity = capacity

    def _grown(self, store: Tensor, capacity: int) -> Tensor:
        grown = store.new_empty(store.shape[0], capacity, *store.shape[2:])
        grown[:, : self.length] = store[:, : self.length]
        return grown

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` places."""
        self.positions_BS[:, length:] = -1
        self.length = min(self.length, length)
