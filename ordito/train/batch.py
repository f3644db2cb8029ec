"""Examples as tensors: the rows of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ordito.train.examples import Example, Text

PADDING = -1
"""The document number of padding."""


class Place(NamedTuple):
    """The place of a text in a batch: tokens [begin, end) of a row."""

    row: int
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of texts, (B, T): token ids, int64; the loss mask, bool; the document number of each token, -1 for padding.

    Tokens attend to their own document only, and positions start at 0 in each. `places` are the places of each example's texts,
    `labels_E` the examples' labels, fp32, `extra` the further arrays of the texts, (B, T, ...).
    """

    ids_BT: Tensor
    learn_BT: Tensor
    documents_BT: Tensor
    places: Sequence[Sequence[Place]]
    labels_E: Tensor
    extra: dict[str, Tensor]

    @property
    def n_tokens(self) -> int:
        """Tokens without padding."""
        return int((self.documents_BT != PADDING).sum())

    @property
    def n_learned(self) -> int:
        """Tokens with a loss: the divisor of losses over tokens."""
        return int(self.learn_BT.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("ids_BT", "learn_BT", "documents_BT", "labels_E")}
        return replace(self, **moved, extra={name: tensor.to(device) for name, tensor in self.extra.items()})


def collate(examples: Sequence[Example], length: int | None = None, rows: Sequence[Sequence[int]] | None = None) -> Batch:
    """A batch of examples, padded on the right to the longest row, or to `length`.

    `rows` packs several texts into a row: for each row, the indices of the examples whose texts it concatenates. Without it,
    every text has a row.
    """
    if rows is None:
        listed = [[(e, t)] for e, example in enumerate(examples) for t in range(len(example.texts))]
    else:
        listed = [[(e, t) for e in row for t in range(len(examples[e].texts))] for row in rows]
    widest = max(sum(len(examples[e].texts[t]) for e, t in row) for row in listed)
    T = max(widest, 1) if length is None else length
    assert widest <= T, f"a row has {widest} tokens, of at most {T}"
    B = len(listed)
    ids, learn = np.zeros((B, T), np.int64), np.zeros((B, T), np.bool_)
    documents = np.full((B, T), PADDING, np.int64)
    extra = _empty_extra(examples, B, T)
    places = [[Place(0, 0, 0)] * len(example.texts) for example in examples]
    for b, row in enumerate(listed):
        begin = 0
        for number, (e, t) in enumerate(row):
            text = examples[e].texts[t]
            place = Place(b, begin, begin + len(text))
            ids[b, begin : place.end], learn[b, begin : place.end] = text.ids, text.learn
            documents[b, begin : place.end] = number
            for name, array in text.extra.items():
                extra[name][b, begin : place.end] = array
            places[e][t], begin = place, place.end
    labels = torch.tensor([example.label for example in examples], dtype=torch.float32)
    extras = {name: torch.from_numpy(array) for name, array in extra.items()}
    return Batch(torch.from_numpy(ids), torch.from_numpy(learn), torch.from_numpy(documents), places, labels, extras)


def _empty_extra(examples: Sequence[Example], B: int, T: int) -> dict[str, np.ndarray]:
    first: Text = examples[0].texts[0]
    return {name: np.zeros((B, T, *array.shape[1:]), array.dtype) for name, array in first.extra.items()}
