"""Losses, gradients and updated weights are those of transformers in a plain PyTorch loop."""

from __future__ import annotations

import pytest
import torch
import training_runs as runs
import transformers

from ordito.errors import OrditoError
from ordito.train import config_from, fit
from ordito.train.batch import collate
from ordito.train.checkpoints import Checkpoints
from ordito.train.forward import Forward
from ordito.train.listener import Quiet
from ordito.train.loop import Trainer
from ordito.train.optimizers import Muon
from ordito.train.run import CHECKPOINTS
from ordito.train.schedules import share_of_peak, warmup_steps
from ordito.train.setup import set_up

STEPS = 5


@pytest.fixture
def data(tmp_path):
    return runs.texts(tmp_path / "texts.jsonl", 60)


def trainer_of(folder, data, output, **settings):
    return set_up(runs.configured(folder, data, output, "pretrain", **settings), Quiet())[0]


def largest(a, b):
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


@pytest.mark.parametrize(
    "settings",
    [{}, {"pack": False}, {"micro_batch": 1}, {"micro_batch": 4}, {"clip": None}, {"recompute": True}, {"optimizer": "muon"}],
)
def test_steps_are_those_of_a_plain_loop(settings, folder, data, tmp_path, monkeypatch):
    # In bfloat16 the iterations of Muon make much of what differs in the last bits.
    monkeypatch.setattr("ordito.train.optimizers.fast_bfloat16", lambda device: False)
    trainer = trainer_of(folder, data, tmp_path / "out", steps=STEPS, warmup=0, weight_decay=0.1, **settings)
    config = trainer.config
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
    named = dict(theirs.named_parameters())
    matrices = [p for n, p in named.items() if p.ndim == 2 and "layers" in n]
    rest = [p for n, p in named.items() if not (p.ndim == 2 and "layers" in n)]
    groups = [
        {"params": [p for p in (rest if config.optimizer == "muon" else named.values()) if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in (rest if config.optimizer == "muon" else named.values()) if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = {"lr": config.lr, "betas": (config.beta1, config.beta2), "eps": config.eps}
    made = [torch.optim.AdamW(groups, **adam)]
    schedules = [transformers.get_cosine_schedule_with_warmup(made[0], 0, STEPS)]
    if config.optimizer == "muon":
        made.append(Muon(matrices, lr=0.02, momentum=0.95, steps=5, scale="original", weight_decay=0.1))
        schedules.append(transformers.get_cosine_schedule_with_warmup(made[1], 0, STEPS))
    for step in range(STEPS):
        examples = [trainer.data[number] for row in trainer.data.rows(step) for number in row]
        total, count = 0.0, 0
        for example in examples:  # one text at a time: neither padding nor packing
            (text,) = example.texts
            ids = torch.tensor(text.ids.astype("int64"))[None]
            logits = theirs(input_ids=ids).logits[0, :-1]
            learned = torch.from_numpy(text.learn)[1:]
            total = total + torch.nn.functional.cross_entropy(logits[learned], ids[0, 1:][learned], reduction="sum")
            count += int(learned.sum())
        loss = total / count
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(named.values(), config.clip or float("inf"))
        record = trainer.compute_gradients()
        assert record["loss"] == pytest.approx(float(loss), rel=1e-5)
        assert record["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
        pairs = [(trainer.parameters[o].grad, named[t].grad) for o, t in paired(trainer, theirs).items()]
        assert max(largest(a, b) for a, b in pairs) <= 1e-5
        trainer.update_weights()
        for optimizer, schedule in zip(made, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    moved = [(trainer.parameters[o].detach(), named[t].detach()) for o, t in paired(trainer, theirs).items()]
    assert max(largest(a, b) for a, b in moved) <= 1e-5


def paired(trainer, theirs):
    """Our name of each parameter, and theirs."""
    from ordito import families

    names = families.names_of(trainer.subject.spec)[0]
    there = dict(theirs.named_parameters())
    return {b.ours[0]: b.theirs[0] for b in names.bindings(trainer.subject.spec) if b.theirs[0] in there}


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant", "wsd", "cosine with a floor"])
@pytest.mark.parametrize(("warmup", "total"), [(0, 10), (3, 20), (0.1, 37)])
def test_schedules_are_those_of_transformers(kind, warmup, total):
    name, floor = ("cosine", 0.1) if kind == "cosine with a floor" else (kind, 0.0)
    config = config_from(
        {"objective": "pretrain", "model": "m", "data": "d", "output": "o"}
        | {"schedule": name, "warmup": warmup, "final": floor, "decay": 0.25}
    )
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warm = warmup_steps(config, total)
    falls = -(-total // 4)
    schedule = {
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(optimizer, warm, total),
        "linear": lambda: transformers.get_linear_schedule_with_warmup(optimizer, warm, total),
        "constant": lambda: transformers.get_constant_schedule_with_warmup(optimizer, warm),
        "wsd": lambda: transformers.get_wsd_schedule(
            optimizer, warm, falls, num_stable_steps=total - warm - falls, decay_type="linear"
        ),
        "cosine with a floor": lambda: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warm, total, min_lr_rate=0.1
        ),
    }[kind]()
    for step in range(total):
        assert share_of_peak(config, step, total) == pytest.approx(schedule.get_last_lr()[0], abs=1e-12), step
        schedule.step()


def test_muon_is_that_of_pytorch():
    torch.manual_seed(0)
    start = torch.randn(48, 32)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    ours_by = Muon([ours], lr=0.02, momentum=0.95, steps=5, scale="original", weight_decay=0.1)
    theirs_by = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, nesterov=True)
    for _ in range(3):
        gradient = torch.randn(48, 32)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        ours_by.step()
        theirs_by.step()
    # Theirs iterates in bfloat16 and averages its momentum by (1 - momentum), which a matrix made orthogonal forgets.
    assert largest(ours.detach() - start, theirs.detach() - start) <= 0.05


@pytest.mark.parametrize("objective", ["pretrain", "sft"])
def test_packed_equals_unpacked(objective, folder, tmp_path):
    made = runs.texts if objective == "pretrain" else runs.chats
    path = made(tmp_path / "data.jsonl", 30)
    config = runs.configured(folder, path, tmp_path / "out", objective, batch_size=30, pack=False, steps=1)
    trainer = set_up(config, Quiet())[0]
    examples = [trainer.data[number] for row in trainer.data.rows(0) for number in row]
    found = []
    for rows in (None, [range(7), range(7, 8), range(8, 15), range(15, len(examples))]):
        batch = collate(examples, rows=rows)
        forward = Forward(trainer.subject.module, batch)
        counts = trainer.task.objective.counts(batch)
        loss = trainer.task.objective.loss(trainer.task.objective.totals(forward), counts)
        loss.backward()
        found.append((float(loss), {name: p.grad.clone() for name, p in trainer.parameters.items()}, counts))
        trainer._clear_gradients()
    (loss_a, grads_a, counts_a), (loss_b, grads_b, counts_b) = found
    assert counts_a == counts_b
    assert loss_a == pytest.approx(loss_b, rel=1e-6)
    assert max(largest(grads_a[name], grads_b[name]) for name in grads_a) <= 1e-5


def test_a_nan_loss_ends_the_run_with_the_previous_weights(folder, data, tmp_path, monkeypatch):
    step = Trainer.step

    def breaks(trainer):
        if trainer.done == 2:
            with torch.no_grad():
                next(iter(trainer.parameters.values())).fill_(float("nan"))
        return step(trainer)

    monkeypatch.setattr(Trainer, "step", breaks)
    with pytest.raises(OrditoError, match=r"step 3: the loss is nan.*kept in .*step-00000002"):
        fit(runs.configured(folder, data, tmp_path / "out", "pretrain", steps=4, save_every=4))
    assert Checkpoints(tmp_path / "out" / CHECKPOINTS, 2).steps() == [2]
    assert [record["step"] for record in runs.metrics(tmp_path / "out")] == [1, 2]
