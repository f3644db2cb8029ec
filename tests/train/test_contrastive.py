"""Contrastive training: in-batch negatives, masks of false negatives, gradients independent of the micro-batch."""

from __future__ import annotations

import pytest
import torch
from train_tiny import context_of, furthest, gradients, loss_of, task_of, value_of

from ordito.embed.pool import embed
from ordito.errors import OrditoError
from ordito.train.batch import collate
from ordito.train.forward import Forward
from ordito.train.losses import info_nce, similarities
from ordito.train.pooled import pooled
from ordito.train.tasks.contrastive import match_candidates

RECORDS = [
    {"query": "warp", "positive": "the weft"},
    {"anchor": "a loom of the weft", "positive": "loom and warp", "negatives": ["the", "a warp and a weft"]},
    {"query": "of", "positive": "loom", "negative": "and"},
    {"query": "the loom", "positive": "a"},
    {"query": "weft", "positive": "of a warp"},
]


def made(folder, micro_batch=None, records=RECORDS, **settings):
    context = context_of(folder, "contrastive", micro_batch=micro_batch, length=32, contrastive=settings)
    task = task_of(context)
    return context, task, collate([task.read(record) for record in records])


def test_every_query_is_compared_with_all_positives_and_negatives(folder):
    context, task, batch = made(folder)
    vectors = pooled(Forward(context.module, batch), context.module.spec.pooling)
    starts = [0, 2, 6, 9, 11]
    assert len(vectors) == 13
    candidates = [start + 1 for start in starts] + [4, 5, 8]
    expected = info_nce(similarities(vectors[starts], vectors[candidates]), torch.arange(5), 20.0) / 5
    assert abs(float(loss_of(context, task, batch) - expected)) <= 1e-6
    assert task.whole
    assert not task.packs


@pytest.mark.parametrize("kind", ["mean", "cls", "last"])
@pytest.mark.parametrize("rows", [1, 3, 4, 12])
def test_gradients_do_not_depend_on_how_many_rows_are_computed_at_once(folder, kind, rows):
    context, task, batch = made(folder, pooling=kind, dims=[8, 32])
    whole, expected = gradients(context, task, batch)
    context, task, batch = made(folder, micro_batch=rows, pooling=kind, dims=[8, 32])
    loss, got = gradients(context, task, batch)
    assert abs(float(loss - whole)) <= 1e-6 * float(whole)
    assert furthest(got, expected) <= 1e-5  # products of other shapes sum in another order


def test_recomputation_uses_the_same_random_numbers(folder):
    context, task, batch = made(folder, micro_batch=3)
    layer = context.module.layers[0]
    layer.register_forward_hook(lambda module, inputs, output: torch.nn.functional.dropout(output, 0.3))
    torch.manual_seed(3)
    _, got = gradients(context, task, batch)
    # The gradient with the same random numbers, without recomputation.
    torch.manual_seed(3)
    parts = [Forward(context.module, _rows(batch, begin, 3)).hidden_BTD for begin in range(0, 13, 3)]
    places = [place for example in batch.places for place in example]
    vectors = torch.stack([parts[place.row // 3][place.row % 3, : place.end].mean(0) for place in places])
    queries, candidates, targets, left_out = match_candidates(batch)
    for parameter in context.module.parameters():
        parameter.grad = None
    (info_nce(similarities(vectors[queries], vectors[candidates]), targets, 20.0, left_out) / 5).backward()
    expected = {name: p.grad for name, p in context.module.named_parameters() if p.grad is not None}
    assert furthest(got, expected) <= 1e-6


def _rows(batch, begin, size):
    from dataclasses import replace

    span = slice(begin, begin + size)
    T = int((batch.documents_BT[span] >= 0).sum(1).max())
    return replace(batch, ids_BT=batch.ids_BT[span, :T], documents_BT=batch.documents_BT[span, :T])


def test_packed_rows_give_the_same_vectors(folder):
    context, task, batch = made(folder)
    examples = [task.read(record) for record in RECORDS]
    packed = collate(examples, rows=[[3, 4], [0], [1, 2]])
    for kind in ("mean", "cls", "last"):
        pooling = type(context.module.spec.pooling)(kind=kind)
        alone = pooled(Forward(context.module, batch), pooling)
        for rows in (None, 2):
            assert float((pooled(Forward(context.module, packed), pooling, rows) - alone).abs().max()) <= 1e-5


def test_duplicates_are_not_negatives(folder):
    again = [*RECORDS[:2], {"query": "of", "positive": "the weft"}, {"query": "warp", "positive": "loom"}]
    _, _, batch = made(folder, records=again)
    _, _, _, left_out = match_candidates(batch)
    assert [(int(e), int(c)) for e, c in left_out.nonzero()] == [(0, 2), (0, 3), (2, 0), (3, 0)]
    context, task, batch = made(folder, records=[RECORDS[0], RECORDS[0]])
    assert abs(value_of(context, task, batch)) <= 1e-6, "two of the same have nothing to tell apart"


def test_matryoshka_is_a_sum_over_first_channels(folder):
    context, task, batch = made(folder)
    whole = value_of(context, task, batch)
    context, task, batch = made(folder, dims=[32])
    assert abs(value_of(context, task, batch) - whole) <= 1e-6
    context, task, batch = made(folder, dims=[8, 32])
    both = value_of(context, task, batch)
    context, task, batch = made(folder, dims=[8])
    assert abs(value_of(context, task, batch) + whole - both) <= 1e-5
    with pytest.raises(OrditoError, match=r"contrastive.dims is 8,33, expected numbers from 1 to 32"):
        made(folder, dims=[8, 33])


def test_trained_vectors_are_those_of_embed(folder):
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.nn.runtime import TorchRuntime

    context, _, batch = made(folder, pooling="last")
    vectors = pooled(Forward(context.module, batch), context.module.spec.pooling)
    runtime = TorchRuntime(open_checkpoint(folder))
    runtime.spec = runtime.module.spec = context.module.spec
    assert runtime.spec.pooling.kind == "last"
    texts = ["warp", "the weft", "a loom of the weft"]
    got = torch.from_numpy(embed(runtime, context.tokenizer, texts))
    assert float((torch.nn.functional.normalize(vectors[:3], dim=-1) - got).abs().max()) <= 1e-5


def test_training_raises_the_accuracy(folder):
    context, task, batch = made(folder)
    (accuracy,) = task.metrics
    optimizer = torch.optim.Adam(context.module.parameters(), lr=3e-3)
    for _ in range(25):
        optimizer.zero_grad()
        loss_of(context, task, batch).backward()
        optimizer.step()
    with torch.no_grad():
        assert float(accuracy.total(Forward(context.module, batch))) == len(RECORDS)


def test_prompts_are_prepended_and_long_texts_truncated(folder):
    context, task, _ = made(folder, query_prompt="query: ", passage_prompt="passage: ")
    example = task.read({"query": "warp", "positive": "the warp and the weft of a loom " * 9})
    assert context.tokenizer.decode(example.texts[0].ids) == "query: warp"
    assert context.tokenizer.decode(example.texts[1].ids).startswith("passage: the warp")
    assert len(example.texts[1]) == 32


@pytest.mark.parametrize("record", [{"query": "warp"}, {"positive": "warp"}, {"query": "warp", "positive": []}])
def test_a_record_without_a_pair_is_refused(folder, record):
    _, task, _ = made(folder)
    with pytest.raises(OrditoError, match="has no query with its positive, expected the fields query or anchor, positive"):
        task.read(record)
    with pytest.raises(OrditoError, match="has 7 under 'query', expected a text"):
        task.read({"query": 7, "positive": "warp"})
