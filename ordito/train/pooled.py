"""Pooled embeddings of the texts of a batch, differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ordito.spec import Pooling
from ordito.train.batch import Place
from ordito.train.forward import Forward


def pooled(forward: Forward, pooling: Pooling, rows: int | None = None) -> Tensor:
    """The vector of each text of each example, (N, D'): pooled, then through the spec's dense layers; not normalised.

    With `rows`, that many rows of the batch are computed at a time, and their activations are recomputed in the backward pass,
    with the same random numbers, so that a batch of any size fits. Gradients are those of the whole batch (GradCache,
    arXiv:2101.06983).
    """
    batch = forward.batch
    places = [place for example in batch.places for place in example]
    B = len(batch.ids_BT)
    if rows is None or rows >= B:
        return forward.module.transform(_pool(forward.hidden_BTD, places, pooling))

    def chunk(begin: int, own: list[Place]) -> Tensor:
        T = max(place.end for place in own)
        span = (slice(begin, begin + rows), slice(0, T))
        return _pool(forward.module.hidden(batch.ids_BT[span], documents=batch.documents_BT[span]), own, pooling)

    vectors, order = [], []
    for begin in range(0, B, rows):
        numbers = [number for number, place in enumerate(places) if begin <= place.row < begin + rows]
        own = [places[number]._replace(row=places[number].row - begin) for number in numbers]
        vectors.append(checkpoint(chunk, begin, own, use_reentrant=False))
        order += numbers
    vectors_ND = torch.cat(vectors)[torch.tensor(order).argsort().to(batch.ids_BT.device)]
    return forward.module.transform(vectors_ND)


def _pool(hidden_BTD: Tensor, places: list[Place], pooling: Pooling) -> Tensor:
    rows = torch.tensor([place.row for place in places])
    if pooling.kind == "cls":
        return hidden_BTD[rows, torch.tensor([place.begin for place in places])]
    if pooling.kind == "last":
        return hidden_BTD[rows, torch.tensor([place.end - 1 for place in places])]
    return torch.stack([hidden_BTD[place.row, place.begin : place.end].mean(dim=0) for place in places])
