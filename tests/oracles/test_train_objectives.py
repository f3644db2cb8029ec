"""Objectives against peers on tiny models: TRL's GKD, GPT-1's published loss, BERT's classifier, sentence-transformers' losses."""

from __future__ import annotations

import pytest
import sentence_transformers
import torch
import torch.nn.functional as F
import transformers
from sentence_transformers.sentence_transformer import losses as peers
from sentence_transformers.sentence_transformer import modules
from tiny import make
from train_tiny import context_of, furthest, gradients, task_of

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.text.from_checkpoint import load_tokenizer
from ordito.train.batch import collate
from ordito.train.losses import distillation

TOLERANCE = 1e-5
SPECIAL = {"start": "<|im_start|>", "delimiter": "|", "extract": "<|im_end|>"}
TEXTS = [("the warp and the weft", "yes"), ("loom", "no"), ("a loom of a warp", "yes")]


def mapped_gradients(model, folder):
    """The gradients of a transformers model under our names: written as if they were its weights."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    model.save_pretrained(folder)
    for name, parameter in model.named_parameters():
        parameter.data = kept[name]
    return {name: torch.from_numpy(array.copy()) for name, array in open_checkpoint(folder)}


def filled(got, expected):
    """Our gradients, zero where nothing came."""
    return {name: got.get(name, torch.zeros_like(tensor)) for name, tensor in expected.items()}


def written(model, folder, path):
    """A model on disk beside the tokenizer of the tiny LLaMA."""
    model.save_pretrained(path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token, tokenizer.chat_template = tokenizer.eos_token, None
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("temperature", [0.9, 2.0])
def test_divergence_is_that_of_trl(beta, temperature):
    gkd = pytest.importorskip("trl.experimental.gkd")
    student, teacher = (3 * torch.randn(2, 9, 31, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    student.requires_grad_()
    # GKD leaves the square of the temperature out.
    peer = temperature**2 * gkd.GKDTrainer.generalized_jsd_loss(
        student, teacher, beta=beta, temperature=temperature, reduction="sum"
    )
    (expected,) = torch.autograd.grad(peer, student)
    mine = distillation(student.flatten(0, 1), teacher.flatten(0, 1), beta, temperature)
    (got,) = torch.autograd.grad(mine, student)
    assert abs(float((mine - peer).detach())) <= TOLERANCE * float(peer.detach())
    assert float((got - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


def gpt(folder, tmp_path):
    vocab = load_tokenizer(open_checkpoint(folder)).vocab_size
    model = make("gpt1", vocab_size=vocab)
    return model, written(model, folder, tmp_path / "gpt1")


def published_language_model_loss(model, rows):
    """`train.py` of finetune-transformer-lm: each row's masked sum by its own tokens, then the mean of the rows."""
    each = []
    for ids in rows:
        logits = model(torch.tensor([ids])).logits[0]
        each.append(F.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="sum") / (len(ids) - 1))
    return torch.stack(each).mean()


def last_state(model, ids):
    return model.transformer(torch.tensor([ids])).last_hidden_state[0, -1]


def compared(context, task, batch, model, loss, head, tmp_path):
    """Ours against a peer's loss, its gradients and those of its head."""
    model.zero_grad()
    loss.backward()
    expected = mapped_gradients(model, tmp_path / "gradients")
    got_loss, got = gradients(context, task, batch)
    assert abs(float(got_loss - loss.detach())) <= TOLERANCE * abs(float(loss.detach()))
    heads = {name: got.pop(name) for name in list(got) if name.startswith("heads.")}
    assert furthest(filled(got, expected), expected) <= TOLERANCE
    theirs = {"heads.task.map.weight": head.weight.grad}
    if head.bias is not None and head.bias.grad is not None:
        theirs["heads.task.map.bias"] = head.bias.grad
    assert furthest({name: heads[name] for name in theirs}, theirs) <= TOLERANCE


def head_like(task, bias=True):
    mine = task.heads["task"].map
    head = torch.nn.Linear(mine.in_features, mine.out_features, bias=bias)
    head.weight.data = mine.weight.detach().clone()
    return head


def test_classification_is_that_of_gpt_1(folder, tmp_path):
    model, path = gpt(folder, tmp_path)
    context = context_of(
        path,
        "classification",
        classification={"start": SPECIAL["start"], "extract": SPECIAL["extract"], "classes": ["no", "yes"], "dropout": 0.0},
    )
    task = task_of(context)
    examples = [task.read({"text": text, "label": label}) for text, label in TEXTS]
    rows = [example.texts[0].ids.tolist() for example in examples]
    peer = transformers.OpenAIGPTForSequenceClassification(
        transformers.OpenAIGPTConfig(**{**model.config.to_dict(), "num_labels": 2})
    ).eval()
    peer.transformer = model.transformer
    peer.score.weight.data = task.heads["task"].map.weight.detach().clone()
    logits = torch.cat([peer(torch.tensor([ids])).logits for ids in rows])
    labels = torch.tensor([["no", "yes"].index(label) for _, label in TEXTS])
    loss = F.cross_entropy(logits, labels) + 0.5 * published_language_model_loss(model, rows)
    compared(context, task, collate(examples), model, loss, peer.score, tmp_path)


def test_choice_is_that_of_gpt_1(folder, tmp_path):
    model, path = gpt(folder, tmp_path)
    context = context_of(path, "choice", choice={**SPECIAL, "dropout": 0.0})
    task = task_of(context)
    records = [
        {"premise": "the warp", "question": "cause", "choice1": "weft", "choice2": "a loom", "label": 1},
        {"premise": "of the loom", "question": "effect", "choice1": "and", "choice2": "the weft", "label": 0},
    ]
    examples = [task.read(record) for record in records]
    head = head_like(task, bias=False)
    rows = [[text.ids.tolist() for text in example.texts] for example in examples]
    scores = torch.stack([torch.cat([head(last_state(model, ids)) for ids in both]) for both in rows])
    loss = F.cross_entropy(scores, torch.tensor([1, 0])) + 0.5 * published_language_model_loss(
        model, [ids for both in rows for ids in both]
    )
    compared(context, task, collate(examples), model, loss, head, tmp_path)


def test_similarity_is_that_of_gpt_1(folder, tmp_path):
    model, path = gpt(folder, tmp_path)
    context = context_of(path, "similarity", similarity={**SPECIAL, "dropout": 0.0})
    task = task_of(context)
    records = [{"sentence1": a, "sentence2": b, "score": s} for a, b, s in (("warp", "a loom", 1.5), ("the", "the weft", 4.0))]
    examples = [task.read(record) for record in records]
    head = head_like(task)
    head.bias.data.zero_()
    rows = [[text.ids.tolist() for text in example.texts] for example in examples]
    scores = torch.cat([head(last_state(model, one) + last_state(model, other)) for one, other in rows])
    loss = F.mse_loss(scores, torch.tensor([1.5, 4.0])) + 0.5 * published_language_model_loss(
        model, [ids for both in rows for ids in both]
    )
    compared(context, task, collate(examples), model, loss, head, tmp_path)


def bert(folder, tmp_path):
    vocab = load_tokenizer(open_checkpoint(folder)).vocab_size
    # transformers gives the row of the padding token no gradient; token 0 is one of the texts' own here.
    model = make("bert", vocab_size=vocab, pad_token_id=None)
    return model, written(model, folder, tmp_path / "bert")


def test_an_encoder_classifies_by_its_pooler_as_bert_does(folder, tmp_path):
    body, path = bert(folder, tmp_path)
    context = context_of(path, "entailment", length=40, entailment={**SPECIAL, "classes": ["no", "so", "yes"], "dropout": 0.0})
    task = task_of(context)
    assert [term.name for _, term in task.objective.terms] == ["entailment"], "an encoder has no language model beside"
    examples = [task.read({"premise": text, "hypothesis": "the loom", "label": label}) for text, label in TEXTS]
    config = transformers.BertConfig(**{**body.config.to_dict(), "num_labels": 3})
    peer = transformers.BertForSequenceClassification(config).eval()
    peer.bert = body
    peer.classifier.weight.data = task.heads["task"].map.weight.detach().clone()
    peer.classifier.bias.data.zero_()
    logits = torch.cat([peer(torch.tensor([example.texts[0].ids.tolist()])).logits for example in examples])
    loss = F.cross_entropy(logits, torch.tensor([2, 0, 2]))
    compared(context, task, collate(examples), body, loss, peer.classifier, tmp_path)


TRIPLES = [
    ("warp", "the weft", "the"),
    ("a loom of the weft", "loom and warp", "a warp"),
    ("of", "loom", "and the weft"),
    ("the", "a", "weft"),
]


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
@pytest.mark.parametrize(("dims", "micro_batch"), [((), None), ((), 5), ((60, 32, 7), None), ((60, 32, 7), 5)])
def test_contrastive_loss_is_that_of_sentence_transformers(mode, dims, micro_batch, folder, tmp_path):
    _, path = bert(folder, tmp_path)
    words = modules.Transformer(str(path), max_seq_length=40)
    peer = sentence_transformers.SentenceTransformer(modules=[words, modules.Pooling(60, pooling_mode=mode)], device="cpu")
    peer.eval()
    loss_of_peer = peers.MultipleNegativesRankingLoss(peer, scale=20.0)
    if dims:
        loss_of_peer = peers.MatryoshkaLoss(peer, loss_of_peer, matryoshka_dims=list(dims))
    loss = loss_of_peer([peer.preprocess(list(column)) for column in zip(*TRIPLES, strict=True)], None)
    loss.backward()
    expected = mapped_gradients(words.auto_model, tmp_path / "gradients")
    pooling = {"lasttoken": "last"}.get(mode, mode)
    context = context_of(path, "contrastive", micro_batch=micro_batch, contrastive={"pooling": pooling, "dims": list(dims)})
    task = task_of(context)
    examples = [task.read({"anchor": a, "positive": p, "negative": n}) for a, p, n in TRIPLES]
    got_loss, got = gradients(context, task, collate(examples))
    assert abs(float(got_loss - loss.detach())) <= TOLERANCE * float(loss.detach())
    assert furthest(filled(got, expected), expected) <= TOLERANCE
