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
"""The document of a token that is not there."""


class Place(NamedTuple):
    """Where a text stands in a batch: its row, and its first token and the one behind its last."""

    row: int
    begin: int
    end: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of texts, (B, T): token ids; which tokens are learned; the number of each token's document, -1 for padding.

    Tokens see their own document only, and positions begin anew in each. `places` has the texts of each example in order,
    `labels_E` the examples' labels, `beside` what stands beside the tokens, (B, T, ...).
    """

    ids_BT: Tensor
    learn_BT: Tensor
    documents_BT: Tensor
    places: Sequence[Sequence[Place]]
    labels_E: Tensor
    beside: dict[str, Tensor]

    @property
    def n_tokens(self) -> int:
        """Tokens that are there, without padding."""
        return int((self.documents_BT != PADDING).sum())

    @property
    def n_learned(self) -> int:
        """Tokens that are learned: what losses over tokens are divided by."""
        return int(self.learn_BT.sum())

    def to(self, device: torch.device | str) -> Batch:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("ids_BT", "learn_BT", "documents_BT", "labels_E")}
        return replace(self, **moved, beside={name: tensor.to(device) for name, tensor in self.beside.items()})


def collate(examples: Sequence[Example], length: int | None = None, rows: Sequence[Sequence[int]] | None = None) -> Batch:
    """A batch of examples, padded on the right to the longest row, or to `length`.

    `rows` packs: each row lists the examples whose texts stand in it one behind the other; without it every text has a row of
    its own.
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
    beside = _room_beside(examples, B, T)
    places = [[Place(0, 0, 0)] * len(example.texts) for example in examples]
    for b, row in enumerate(listed):
        begin = 0
        for number, (e, t) in enumerate(row):
            text = examples[e].texts[t]
            place = Place(b, begin, begin + len(text))
            ids[b, begin : place.end], learn[b, begin : place.end] = text.ids, text.learn
            documents[b, begin : place.end] = number
            for name, array in text.beside.items():
                beside[name][b, begin : place.end] = array
            places[e][t], begin = place, place.end
    labels = torch.tensor([example.label for example in examples], dtype=torch.float32)
    made = {name: torch.from_numpy(array) for name, array in beside.items()}
    return Batch(torch.from_numpy(ids), torch.from_numpy(learn), torch.from_numpy(documents), places, labels, made)


def _room_beside(examples: Sequence[Example], B: int, T: int) -> dict[str, np.ndarray]:
    first: Text = examples[0].texts[0]
    return {name: np.zeros((B, T, *array.shape[1:]), array.dtype) for name, array in first.beside.items()}
