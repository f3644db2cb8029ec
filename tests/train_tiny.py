"""A tiny model about to be trained."""

from __future__ import annotations


def context_of(folder, objective, tokenizer=None, **values):
    """What a task is built from: the model of `folder`, and settings of the run, those of the task among them by its name."""
    from ordito.checkpoint.checkpoint import open_checkpoint
    from ordito.nn.runtime import load_transformer
    from ordito.text.from_checkpoint import load_tokenizer
    from ordito.train.config import config_from
    from ordito.train.task import Context

    checkpoint = open_checkpoint(folder)
    config = config_from({"objective": objective, "model": str(folder), "data": ["d.jsonl"], "output": "out", **values})
    return Context(config, load_transformer(checkpoint), tokenizer or load_tokenizer(checkpoint), None)


def task_of(context):
    """The task of a context."""
    from ordito.train.task import kind_named

    return kind_named(context.config.objective).build(context.config.settings, context)


def loss_of(context, task, batch):
    """The objective over one batch."""
    from ordito.train.forward import Forward

    totals = task.objective.totals(Forward(context.module, batch))
    return task.objective.loss(totals, task.objective.counts(batch))


def value_of(context, task, batch):
    """The same as a number."""
    return float(loss_of(context, task, batch).detach())


def gradients(context, task, batch):
    """The loss of a batch, and the gradient of every parameter that it reaches."""
    named = {**dict(context.module.named_parameters()), **{f"heads.{n}": p for n, p in task.heads.named_parameters()}}
    for parameter in named.values():
        parameter.grad = None
    loss = loss_of(context, task, batch)
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in named.items() if p.grad is not None}


def furthest(got, expected):
    """The largest difference of two tables of tensors over the largest value; NaN if anything is."""
    import torch

    assert got.keys() == expected.keys(), sorted(got.keys() ^ expected.keys())
    largest = torch.stack([tensor.abs().max() for tensor in expected.values()]).max()
    return float(torch.stack([(got[name] - expected[name]).abs().max() for name in got]).max() / largest)
