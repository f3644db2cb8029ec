"""Contrastive training of embedding models with in-batch negatives (InfoNCE, arXiv:1807.03748)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ordito.embed.pool import DEFAULT, cut
from ordito.errors import OrditoError
from ordito.spec import Pooling
from ordito.train.batch import Batch
from ordito.train.examples import Example, Text
from ordito.train.forward import Forward
from ordito.train.losses import IMPOSSIBLE, info_nce, similarities
from ordito.train.objective import Objective, Term
from ordito.train.pooled import pooled
from ordito.train.settings import Settings
from ordito.train.task import Context, Kind, Record, Task
from ordito.train.terms import count_examples

QUERIES, POSITIVES, NEGATIVES = ("query", "anchor"), ("positive",), ("negatives", "negative")
"""Names of a record's fields; negatives are a text or a list of texts."""
POSITIVE = 1.0
"""The index of the positive among the texts of an example, after the query: the label of every example."""


class ContrastiveSettings(Settings):
    """Settings of `contrastive`."""

    scale: float = Field(20.0, gt=0, le=1000, description="Cosines are multiplied by it: 1 / temperature.")
    pooling: Literal["model", "mean", "cls", "last"] = Field(
        "model", description="How states become one vector: as the model says, or mean where it says nothing."
    )
    dims: tuple[int, ...] = Field(
        (), description="Matryoshka (arXiv:2205.13147): first channels that are to do alone; all if empty."
    )
    query_prompt: str = Field("", description="Words before each query (E5's 'query: ').")
    passage_prompt: str = Field("", description="Words before each positive and negative.")


def build(settings: ContrastiveSettings, context: Context) -> Task:
    """InfoNCE over all examples of a step: the positives and negatives of the others are further negatives of each query.

    `micro_batch` is the number of rows that are computed at once; it does not change the result (GradCache). The pooling is
    written to the module's spec, so that it is saved with the model. Raises `OrditoError` for impossible `dims`.
    """
    spec = context.module.spec
    pooling = _pooling(settings, spec.pooling)
    context.module.spec = replace(spec, pooling=pooling)
    width = pooling.dense[-1].d_out if pooling.dense else spec.d_model
    dims = settings.dims or (width,)
    if not all(1 <= d <= width for d in dims):
        raise OrditoError(
            f"contrastive.dims is {','.join(map(str, dims))}, expected numbers from 1 to {width}, the vector's width"
        )
    rows = context.config.micro_batch

    def text(words: str, prompt: str) -> Text:
        ids = context.tokenizer.encode(prompt + words)
        if not ids:
            raise OrditoError("has a text without tokens")
        most = min(context.length, pooling.max_tokens or spec.context)
        return Text.of(cut(context.tokenizer, ids, most) if len(ids) > most else ids, learn=False)

    def read(record: Record) -> Example:
        query, positive = (_texts(record, names)[:1] for names in (QUERIES, POSITIVES))
        if not query or not positive:
            raise OrditoError(f"has no query with its positive, expected the fields {' or '.join(QUERIES)}, {POSITIVES[0]}")
        passages = [*positive, *_texts(record, NEGATIVES)]
        encoded = [text(words, settings.passage_prompt) for words in passages]
        return Example((text(query[0], settings.query_prompt), *encoded), POSITIVE)

    def contrast(forward: Forward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        vectors_ND = pooled(forward, pooling, rows)
        queries, candidates, targets_E, left_out_EC = match_candidates(forward.batch)
        return vectors_ND[queries], vectors_ND[candidates], targets_E, left_out_EC

    def loss(forward: Forward) -> Tensor:
        queries_ED, candidates_CD, targets_E, left_out_EC = contrast(forward)
        each = [similarities(queries_ED[:, :d], candidates_CD[:, :d]) for d in dims]
        return torch.stack([info_nce(cosines_EC, targets_E, settings.scale, left_out_EC) for cosines_EC in each]).sum()

    def correct(forward: Forward) -> Tensor:
        queries_ED, candidates_CD, targets_E, left_out_EC = contrast(forward)
        cosines_EC = similarities(queries_ED, candidates_CD).masked_fill(left_out_EC, IMPOSSIBLE)
        return (cosines_EC.argmax(dim=-1) == targets_E).sum()

    objective = Objective.of(Term("contrast", loss, count_examples))
    prompts = {"query": settings.query_prompt, "document": settings.passage_prompt}
    metrics = (Term("accuracy", correct, count_examples),)
    return Task(read, objective, whole=True, metrics=metrics, prompts=prompts if any(prompts.values()) else {})


def match_candidates(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices of queries (E,), of candidates (C,), all positives, then all negatives, and each query's target candidate (E,).

    The last tensor, (E, C), bool, marks false negatives, which are left out: candidates with the same tokens as the query's
    positive, and positives of queries with the same tokens.
    """
    device = batch.ids_BT.device
    places = [(e, t) for e, example in enumerate(batch.places) for t in range(len(example))]
    numbers = {place: number for number, place in enumerate(places)}
    listed = [place for place in places if place[1] == 1] + [place for place in places if place[1] > 1]
    words: dict[bytes, int] = {}
    reads_N = torch.tensor([words.setdefault(_ids(batch, e, t), len(words)) for e, t in places], device=device)
    queries, candidates, owners = (
        torch.tensor(found, device=device)
        for found in (
            [numbers[e, 0] for e in range(len(batch.places))],
            [numbers[place] for place in listed],
            [numbers[e, 0] for e, _ in listed],
        )
    )
    E = len(queries)
    positive_C = torch.arange(len(candidates), device=device) < E
    left_out_EC = reads_N[candidates] == reads_N[candidates[:E]][:, None]
    left_out_EC |= positive_C & (reads_N[owners] == reads_N[queries][:, None])
    targets_E = torch.arange(E, device=device)
    left_out_EC[targets_E, targets_E] = False
    return queries, candidates, targets_E, left_out_EC


def _ids(batch: Batch, example: int, text: int) -> bytes:
    place = batch.places[example][text]
    return batch.ids_BT[place.row, place.begin : place.end].cpu().numpy().tobytes()


def _pooling(settings: ContrastiveSettings, own: Pooling | None) -> Pooling:
    # Trained by cosine similarity, so vectors are normalised by default: dot products are then cosines.
    pooling = own or replace(DEFAULT, normalise=True)
    return pooling if settings.pooling == "model" else replace(pooling, kind=settings.pooling)


def _texts(record: Record, names: Sequence[str]) -> list[str]:
    value: Any = next((record[name] for name in names if record.get(name) is not None), [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(words, str) for words in texts):
        raise OrditoError(f"has {value!r:.80} under {names[0]!r}, expected a text or a list of texts")
    return texts


KINDS = (Kind("contrastive", "an embedding model, from queries and what answers them", ContrastiveSettings, build),)
