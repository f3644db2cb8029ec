"""GPT-1's heads: input formats, objective, predictions, and errors for invalid records."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from train_tiny import context_of, furthest, gradients, loss_of, task_of, value_of

from ordito.errors import OrditoError, OrditoWarning
from ordito.train.batch import collate
from ordito.train.forward import Forward
from ordito.train.head import TextHead
from ordito.train.prediction import predict

NAMED = {"start": "<|im_start|>", "extract": "<|im_end|>"}
PAIRED = {**NAMED, "delimiter": "|"}
TEXTS = [("warp", "no"), ("the weft of the loom", "yes"), ("loom", "yes"), ("a", "no")]
CHOICES = [
    {"premise": "the warp", "question": "cause", "choice1": "weft", "choice2": "a loom", "label": 1},
    {"context": "of", "choices": ["the", "a loom", "the weft"], "label": "the"},
]


def made(folder, objective, length=48, **settings):
    context = context_of(folder, objective, length=length, **{objective: {**PAIRED, **settings}})
    return context, task_of(context)


def classification(folder, **settings):
    settings = {"classes": ["no", "yes"], "dropout": 0.0, **settings}
    context = context_of(folder, "classification", length=48, classification={**NAMED, **settings})
    task = task_of(context)
    return context, task, collate([task.read({"text": text, "label": label}) for text, label in TEXTS])


def spelled(context, text):
    return [context.tokenizer.token(int(id)) for id in text.ids]


def test_inputs_have_the_published_format(folder):
    context, task = made(folder, "entailment", classes=["0", "1"])
    (row,) = task.read({"premise": "warp", "hypothesis": "weft", "label": 1}).texts
    inside = context.tokenizer.decode(row.ids, skip_special_tokens=False)
    assert inside == "<|im_start|>warp|weft<|im_end|>"
    assert not row.learn[0]
    assert row.learn[1:].all()
    _, task = made(folder, "similarity")
    example = task.read({"sentence1": "warp", "sentence2": "weft", "score": 2.5})
    both = [context.tokenizer.decode(row.ids, skip_special_tokens=False) for row in example.texts]
    assert both == ["<|im_start|>warp|weft<|im_end|>", "<|im_start|>weft|warp<|im_end|>"]
    assert example.label == 2.5
    _, task = made(folder, "choice")
    examples = [task.read(record) for record in CHOICES]
    each = [context.tokenizer.decode(row.ids, skip_special_tokens=False) for row in examples[0].texts]
    assert each == ["<|im_start|>the warp cause|weft<|im_end|>", "<|im_start|>the warp cause|a loom<|im_end|>"]
    assert [example.label for example in examples] == [1.0, 0.0]
    assert len(examples[1].texts) == 3


def test_the_objective_is_the_head_and_half_of_the_language_model_by_text(folder):
    context, task, batch = classification(folder)
    head = task.heads["task"]
    expected = {"classification": 0.0, "language_model": 0.0, "by token": 0.0}
    n_tokens = 0
    for text, label in TEXTS:
        ids = torch.tensor([task.read({"text": text, "label": label}).texts[0].ids.tolist()])
        hidden = context.module.hidden(ids)
        scores = head.map(hidden[0, -1])
        expected["classification"] += F.cross_entropy(scores[None], torch.tensor([["no", "yes"].index(label)])) / len(TEXTS)
        nll = F.cross_entropy(context.module.project(hidden[0, :-1]), ids[0, 1:], reduction="sum")
        expected["language_model"] += nll / (ids.shape[1] - 1) / len(TEXTS)
        expected["by token"] += nll
        n_tokens += ids.shape[1] - 1
    loss = value_of(context, task, batch)
    assert abs(loss - float(expected["classification"] + 0.5 * expected["language_model"])) <= 1e-5 * loss
    assert abs(float(expected["language_model"] - expected["by token"] / n_tokens)) > 1e-3, "the two ways must differ here"


def test_without_lambda_only_the_head_has_a_loss(folder):
    context, task, batch = classification(folder, lm_weight=0.0)
    assert [term.name for _, term in task.objective.terms] == ["classification"]
    _, found = gradients(context, task, batch)
    assert "heads.task.map.weight" in found
    embedding = found["embedding.tokens.weight"]
    assert float(embedding[batch.ids_BT.unique()].abs().sum()) > 0
    unseen = torch.ones(len(embedding), dtype=torch.bool).index_fill(0, batch.ids_BT.unique(), False)
    assert float(embedding[unseen].abs().sum()) == 0, "the head of the language model has no part in it"


def test_accumulated_gradients_are_those_of_one_batch(folder):
    context, task, batch = classification(folder)
    whole, expected = gradients(context, task, batch)
    examples = [task.read({"text": text, "label": label}) for text, label in TEXTS]
    for parameter in [*context.module.parameters(), *task.heads.parameters()]:
        parameter.grad = None
    total = 0.0
    for part in (collate(examples[:1]), collate(examples[1:], rows=[[0, 1], [2]])):
        totals = task.objective.totals(Forward(context.module, part))
        loss = task.objective.loss(totals, task.objective.counts(batch))
        loss.backward()
        total += float(loss)
    got = {name: p.grad for name, p in context.module.named_parameters() if p.grad is not None}
    got |= {f"heads.{name}": p.grad for name, p in task.heads.named_parameters()}
    assert abs(total - float(whole)) <= 1e-6 * abs(total)
    assert furthest(got, expected) <= 1e-6


def test_all_choices_have_the_same_dropout_mask():
    head = TextHead(6, 1, dropout=0.5, seed=0)
    head.map.weight.data.fill_(1.0)
    scores = head(torch.ones(64, 3, 6))[..., 0]
    assert torch.equal(scores, scores[:, :1].expand(-1, 3))
    assert len(scores[:, 0].unique()) > 2
    assert torch.equal(head.eval()(torch.ones(2, 3, 6))[..., 0], torch.full((2, 3), 6.0))


def test_initial_heads_depend_on_the_seed(folder):
    first, again = (classification(folder)[1].heads["task"].map.weight for _ in range(2))
    assert torch.equal(first, again)
    assert 0.01 < float(first.std()) < 0.03


def test_choices_may_differ_in_number_and_order_of_a_pair_does_not_matter(folder):
    context, task = made(folder, "choice", dropout=0.0)
    alone = [value_of(context, task, collate([task.read(record)])) for record in CHOICES]
    together = value_of(context, task, collate([task.read(record) for record in CHOICES]))
    # The auxiliary loss is a mean over texts, of which the second has three: only the head's part is a mean over examples.
    context, task = made(folder, "choice", dropout=0.0, lm_weight=0.0)
    alone = [value_of(context, task, collate([task.read(record)])) for record in CHOICES]
    together = value_of(context, task, collate([task.read(record) for record in CHOICES]))
    assert abs(together - sum(alone) / 2) <= 1e-6
    context, task = made(folder, "similarity", dropout=0.0, lm_weight=0.0)
    records = [{"text_a": a, "text_b": b, "score": 1.0} for a, b in (("warp", "a loom"), ("a loom", "warp"))]
    one, other = (value_of(context, task, collate([task.read(record)])) for record in records)
    assert abs(one - other) <= 1e-6


def test_scores_are_regressed_and_classes_of_pairs_are_chosen(folder):
    context, task = made(folder, "similarity", dropout=0.0, lm_weight=0.0)
    record = {"text_a": "warp", "text_b": "weft", "score": 3.0}
    ((score,), _) = predict(context.module, task, [record])
    assert abs(value_of(context, task, collate([task.read(record)])) - (score - 3.0) ** 2) <= 1e-4
    assert task.metrics[0].name == "absolute_error"
    _, task = made(folder, "similarity", classes=["0", "1"])
    assert task.read({"text_a": "warp", "text_b": "weft", "label": 1}).label == 1.0
    assert task.metrics[0].name == "accuracy"


def test_predictions_name_classes_and_choices_and_learn_to_be_right(folder):
    context, task, batch = classification(folder, lm_weight=0.0)
    optimizer = torch.optim.Adam([*context.module.parameters(), *task.heads.parameters()], lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss_of(context, task, batch).backward()
        optimizer.step()
    unlabelled = [{"text": text} for text, _ in TEXTS]
    answers, chances = predict(context.module, task, unlabelled)
    assert answers == [label for _, label in TEXTS]
    assert all(abs(sum(row) - 1) <= 1e-5 and len(row) == 2 for row in chances)
    with torch.no_grad():
        (accuracy,) = (term.total(Forward(context.module, batch)) for term in task.metrics)
    assert float(accuracy) == len(TEXTS)
    context, task = made(folder, "choice")
    task.heads.train()
    answers, chances = predict(context.module, task, CHOICES)
    assert task.heads.training
    assert [len(row) for row in chances] == [2, 3]
    assert answers == [max(range(len(row)), key=row.__getitem__) for row in chances]


def test_classes_are_derived_from_the_data_and_saved(folder, tmp_path):
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": "loom", "label": label}) + "\n" for label in (10, 2, 0, 2)))
    task = task_of(context_of(folder, "classification", data=[str(data)], classification=NAMED))
    assert task.settings.classes == ("0", "2", "10")
    assert task.read({"text": "loom", "label": 10}).label == 2.0
    assert task.heads["task"].map.out_features == 3
    data.write_text('{"text": "loom", "label": 1}\n{"text": "loom"}\n')
    with pytest.raises(OrditoError, match=r"d\.jsonl:2: has no label"):
        task_of(context_of(folder, "classification", data=[str(data)], classification=NAMED))


def test_long_inputs_are_truncated_but_keep_the_extract_token(folder):
    context, task = made(folder, "entailment", length=12, classes=["0", "1"])
    with pytest.warns(OrditoWarning, match="more than 12 tokens are cut"):
        (row,) = task.read({"premise": "the warp and the weft of a loom " * 4, "hypothesis": "loom", "label": 1}).texts
    assert len(row) == 12
    assert spelled(context, row)[-1] == "<|im_end|>"
    assert context.tokenizer.decode(row.ids, skip_special_tokens=True).endswith("|loom")


@pytest.mark.parametrize(
    ("objective", "record", "said"),
    [
        ("entailment", {"premise": "a", "label": 0}, "has no two texts, expected premise and hypothesis, or text_a and text_b"),
        ("entailment", {"premise": "a", "hypothesis": "b"}, "has no label: got None"),
        ("entailment", {"premise": "a", "hypothesis": "b", "label": -1}, "got -1 under 'label', leave such records out"),
        ("entailment", {"premise": "a", "hypothesis": "b", "label": "no"}, "has the label 'no', expected one of 0, 1"),
        ("similarity", {"text_a": "a", "text_b": "b", "label": "high"}, "has no score: got 'high'"),
        ("choice", {"choices": ["a", "b"], "label": 0}, "is no choice, expected one of context, premise, question"),
        ("choice", {"context": "a", "choices": ["a", "b"], "label": 2}, "has the label 2, expected a choice, or its number from 0 to 1"),
    ],
)  # fmt: skip
def test_invalid_records_are_described(folder, objective, record, said):
    settings = {"classes": ["0", "1"]} if objective == "entailment" else {}
    _, task = made(folder, objective, **settings)
    with pytest.raises(OrditoError, match=said):
        task.read(record)


def test_a_missing_token_is_named(folder):
    with pytest.raises(OrditoError, match=r"no token for the delimiter of choice: name one .* --set choice.delimiter=TOKEN"):
        task_of(context_of(folder, "choice"))
    with pytest.raises(OrditoError, match="choice.delimiter is 'no such thing', which is .* tokens, expected one"):
        task_of(context_of(folder, "choice", choice={"delimiter": "no such thing"}))


def test_a_trained_run_predicts(folder, tmp_path):
    from ordito.train.prediction import trained
    from ordito.train.run import fit

    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in TEXTS))
    settings = {**NAMED, "classes": ["no", "yes"], "lm_weight": 0.0}
    out = tmp_path / "out"
    fit(
        "classification",
        model=str(folder),
        data=[str(data)],
        output=str(out),
        length=32,
        steps=40,
        lr=5e-3,
        classification=settings,
    )
    module, task = trained(out)
    answers, chances = predict(module, task, [{"text": text} for text, _ in TEXTS])
    assert answers == [label for _, label in TEXTS]
    assert min(max(row) for row in chances) > 0.6
    with pytest.raises(OrditoError, match="holds no heads"):
        trained(folder)
