"""Distillation: a teacher in every step, stored predictions, and on-policy answers of the student."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny_model import tiny_folder
from train_tiny import context_of, furthest, gradients, loss_of, task_of, value_of

from ordito.errors import OrditoError
from ordito.nn.runtime import TorchSession
from ordito.train.batch import collate
from ordito.train.examples import Example, Text
from ordito.train.losses import distillation
from ordito.train.rollout import OWN, generate, with_own_answers
from ordito.train.tasks import distill

TEXTS = ["the warp and the weft", "loom", "a loom of a warp"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("teacher"), 64, seed=4)


def made(folder, teacher, **settings):
    context = context_of(folder, "distill", length=32, distill={"teacher": str(teacher), **settings})
    task = task_of(context)
    return context, task, collate([task.read({"text": text}) for text in TEXTS])


def terms(context, task, batch):
    from ordito.train.forward import Forward

    totals, counts = task.objective.totals(Forward(context.module, batch)), task.objective.counts(batch)
    return {name: float(total) / max(counts[name], 1e-9) for name, total in totals.items()}


def logits_of(folder, batch):
    module = context_of(folder, "pretrain").module
    with torch.no_grad():
        hidden = module.hidden(batch.ids_BT, documents=batch.documents_BT)
        return module.project(hidden[:, :-1][batch.learn_BT[:, 1:]])


@pytest.mark.parametrize(("beta", "temperature"), [(0.0, 1.0), (0.5, 2.0), (1.0, 0.7)])
def test_the_loss_is_the_divergence_of_all_learned_tokens(folder, teacher, beta, temperature, monkeypatch):
    monkeypatch.setattr(distill, "ROWS", 4)
    context, task, batch = made(folder, teacher, beta=beta, temperature=temperature, alpha=0.25)
    got = terms(context, task, batch)
    expected = distillation(logits_of(folder, batch), logits_of(teacher, batch), beta, temperature) / batch.n_learned
    assert abs(got["divergence"] - float(expected)) <= 1e-5 * float(expected)
    whole = value_of(context, task, batch)
    assert abs(whole - (0.25 * got["next_token"] + 0.75 * got["divergence"])) <= 1e-5 * whole


def test_the_teacher_is_not_trained(folder, teacher):
    context, task, batch = made(folder, teacher)
    _, found = gradients(context, task, batch)
    assert set(found) == {name for name, _ in context.module.named_parameters()}
    assert len(task.heads) == 0


def test_a_student_equal_to_its_teacher_has_no_divergence(folder):
    for beta in (0.0, 0.5, 1.0):
        context, task, batch = made(folder, folder, alpha=0.0, beta=beta)
        loss, found = gradients(context, task, batch)
        assert abs(float(loss)) <= 1e-5
        assert max(float(grad.abs().max()) for grad in found.values()) <= 1e-5


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_stored_predictions_of_all_tokens_give_the_same_loss(folder, teacher, beta):
    context, task, batch = made(folder, teacher, beta=beta, temperature=1.5, alpha=0.0)
    whole, expected = gradients(context, task, batch)
    context, task, batch = made(folder, teacher, beta=beta, temperature=1.5, alpha=0.0, top_k=1024)
    loss, got = gradients(context, task, batch)
    assert abs(float(loss - whole)) <= 1e-5 * float(whole)
    assert furthest(got, expected) <= 1e-5
    fewer = [value_of(*made(folder, teacher, beta=beta, temperature=1.5, alpha=0.0, top_k=k)) for k in (2, 20)]
    assert fewer[0] < fewer[1] < float(whole)


def test_stored_predictions_belong_to_the_token_that_they_predict(folder, teacher):
    _, task, _ = made(folder, teacher, top_k=3)
    (text,) = task.read({"text": TEXTS[0]}).texts
    expected = logits_of(teacher, collate([Example((text,))])).log_softmax(-1)
    assert text.extra["teacher_ids"].shape == (len(text), 3)
    assert text.extra["teacher_ids"][1:].tolist() == expected.topk(3).indices.tolist()
    got = text.extra["teacher_logs"]
    assert np.abs(got[1:, :3] - expected.topk(3).values.numpy()).max() <= 1e-5
    assert np.abs(np.exp(got[1:]).sum(-1) - 1).max() <= 1e-5


def test_prepared_data_needs_no_teacher(folder, teacher, tmp_path):
    *_, batch = made(folder, teacher, top_k=3, alpha=0.5)
    context = context_of(folder, "distill", distill={"teacher": str(tmp_path / "gone"), "top_k": 3, "alpha": 0.5})
    assert value_of(context, task_of(context), batch) > 0


def test_another_vocabulary_is_refused_but_padding_is_not(folder, teacher, tmp_path):
    import transformers

    other = tiny_folder(tmp_path / "other", 64, text="il filo e la trama di un telaio")
    with pytest.raises(
        OrditoError, match="other is no teacher for this model: its token .* choose one with the same tokenizer"
    ):
        made(folder, other)
    wide = transformers.AutoModelForCausalLM.from_pretrained(teacher)
    torch.manual_seed(0)
    wide.resize_token_embeddings(wide.config.vocab_size + 17, mean_resizing=False)
    wide.save_pretrained(tmp_path / "wide")
    transformers.AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "wide")
    expected = value_of(*made(folder, teacher))
    assert abs(value_of(*made(folder, tmp_path / "wide")) - expected) <= 1e-5 * expected


def test_a_longer_vocabulary_is_refused(folder, teacher, tmp_path):
    import shutil

    longer = shutil.copytree(teacher, tmp_path / "longer")
    file = longer / "tokenizer.json"
    tree = json.loads(file.read_text())
    size = max(tree["model"]["vocab"].values()) + 1
    tree["added_tokens"].append({**tree["added_tokens"][0], "id": size, "content": "<|new|>"})
    file.write_text(json.dumps(tree))
    with (
        pytest.warns(match="embeds only"),
        pytest.raises(OrditoError, match=f"its tokenizer has {size + 1} tokens, here {size}"),
    ):
        made(folder, longer)


def test_on_policy_needs_a_prompt_and_the_teacher(folder, teacher):
    for settings in ({}, {"records": "sft", "top_k": 3}):
        with pytest.raises(OrditoError, match="on_policy needs a prompt to answer, and the teacher at hand"):
            made(folder, teacher, on_policy=0.5, **settings)


PROMPTS = [[0, 70, 80], [0, 90], [0, 71, 72, 73, 74, 75, 76]]


def test_answers_do_not_depend_on_the_batch(folder):
    module = context_of(folder, "pretrain").module.train()
    seeds = [(7, row) for row in range(3)]
    settings = {"max_tokens": 12, "end_ids": {1}, "vocab_size": 250}
    together = generate(module, PROMPTS, seeds, **settings)
    alone = [generate(module, [prompt], [seed], **settings)[0] for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert together == alone
    assert module.training
    assert together == generate(module, PROMPTS, seeds, **settings)
    assert together != generate(module, PROMPTS, [(8, row) for row in range(3)], **settings)


def test_temperature_zero_is_greedy(folder):
    module = context_of(folder, "pretrain").module
    got = generate(module, PROMPTS, [(0,)] * 3, max_tokens=8, end_ids=set(), vocab_size=250, temperature=0.0)
    for prompt, written in zip(PROMPTS, got, strict=True):
        session, expected = TorchSession(module), []
        while len(expected) < 8:
            expected.append(int(session.feed(expected[-1:] or prompt)[:250].argmax()))
        assert written == expected


def test_samples_follow_the_models_probabilities(folder):
    module = context_of(folder, "pretrain").module
    n = 4000
    got = generate(
        module, [PROMPTS[0]] * n, [(1, row) for row in range(n)], max_tokens=1, end_ids=set(), vocab_size=250, temperature=0.8
    )
    with torch.no_grad():
        expected = (module(torch.tensor([PROMPTS[0]]))[0, -1, :250] / 0.8).softmax(-1).numpy()
    found = np.bincount([row[0] for row in got], minlength=250) / n
    assert np.abs(found - expected).max() <= 4 * np.sqrt(expected.max() / n)


def test_an_answer_ends_with_an_end_token(folder):
    module = context_of(folder, "pretrain").module
    (free,) = generate(module, PROMPTS[:1], [(0,)], max_tokens=10, end_ids=set(), vocab_size=250, temperature=0.0)
    (ended,) = generate(module, PROMPTS[:1], [(0,)], max_tokens=10, end_ids={free[3]}, vocab_size=250, temperature=0.0)
    assert ended == free[: free.index(free[3]) + 1]


def conversation(length, learned):
    return Example((Text.of([0, *range(60, 60 + length - 1)], [place in learned for place in range(length)]),))


def test_the_last_answer_is_generated_anew(folder):
    context = context_of(folder, "pretrain")
    examples = [conversation(12, {3, 4, 8, 9, 10}), conversation(30, {28, 29}), conversation(6, {4})]
    got = with_own_answers(context.module, context.tokenizer, examples, (0, 5), 8, 32)
    for example, before, prompt in zip(got, examples, (8, 28, 4), strict=True):
        (text,), (old,) = example.texts, before.texts
        assert text.ids[:prompt].tolist() == old.ids[:prompt].tolist()
        assert not text.learn[:prompt].any()
        assert text.learn[prompt:].all()
        assert prompt < len(text) <= min(32, prompt + 8)
        assert text.extra[OWN].all()
    again = with_own_answers(context.module, context.tokenizer, examples[::-1], (0, 5), 8, 32)[::-1]
    assert [e.texts[0].ids.tolist() for e in again] == [e.texts[0].ids.tolist() for e in got]
    other = with_own_answers(context.module, context.tokenizer, examples, (0, 6), 8, 32)
    assert [e.texts[0].ids.tolist() for e in other] != [e.texts[0].ids.tolist() for e in got]


def test_generated_answers_have_no_next_token_loss(folder, teacher):
    context, task, _ = made(folder, teacher, alpha=0.5)
    batch = collate(with_own_answers(context.module, context.tokenizer, [conversation(12, {8, 9})], (0, 1), 8, 32))
    found = terms(context, task, batch)
    assert found["next_token"] == 0
    assert found["divergence"] > 0
    assert task.objective.counts(batch)["next_token"] == 0
    loss_of(context, task, batch).backward()


def test_a_share_of_steps_is_on_policy(folder, teacher):
    context = context_of(folder, "distill", length=32, distill={"teacher": str(teacher), "records": "sft", "on_policy": 0.3})
    task = task_of(context)
    assert not task.packs
    example = task.read({"prompt": "the warp", "completion": " and the weft"})
    steps = [task.rewrite([example], step)[0].texts[0] for step in range(60)]
    own = [text for text in steps if OWN in text.extra]
    assert 8 <= len(own) <= 28
    prompt = int(example.texts[0].learn.argmax())
    assert all(text.ids[:prompt].tolist() == example.texts[0].ids[:prompt].tolist() for text in own)
    assert len({tuple(text.ids.tolist()) for text in own}) > 1
    again = [task.rewrite([example], step)[0].texts[0] for step in range(60)]
    assert [text.ids.tolist() for text in again] == [text.ids.tolist() for text in steps]
