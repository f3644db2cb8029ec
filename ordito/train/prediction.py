"""Predictions of a trained head on new records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ordito.checkpoint.safetensors import read_safetensors
from ordito.errors import OrditoError
from ordito.loading import load
from ordito.nn.transformer import Transformer
from ordito.train.batch import collate
from ordito.train.config import config_from, read_settings
from ordito.train.forward import Forward
from ordito.train.run import RUN
from ordito.train.subject import HEADS
from ordito.train.task import Context, Predictor, Record, Task, kind_named

BATCH = 32
"""Records per forward pass."""


def trained(folder: str | Path) -> tuple[Transformer, Task]:
    """The model and the task of a finished run, with its trained heads. Raises `OrditoError` if the run has no heads.

    >>> predict(*trained("out"), [{"text": "a fine loom"}])  # doctest: +SKIP
    """
    folder = Path(folder)
    if not (folder / HEADS).is_file():
        raise OrditoError(
            f"{folder}: holds no heads ({HEADS}): train classification, entailment, similarity or choice to its end"
        )
    config = config_from(read_settings(folder / RUN))
    model = load(folder, backend="torch", dtype="float32")
    module: Transformer = model.runtime.module  # type: ignore[attr-defined]
    task = kind_named(config.objective).build(config.settings, Context(config, module, model.tokenizer, None))
    stored = read_safetensors(folder / HEADS).tensors
    task.heads.load_state_dict({name: torch.from_numpy(tensor.to_float32().copy()) for name, tensor in stored.items()})
    return module, task


def predict(module: Transformer, task: Task, records: Sequence[Record]) -> tuple[list[str | int | float], list[list[float]]]:
    """The answer to each record, and the probabilities that it has the largest of.

    An answer is a class, the index of a choice, or, of a regression, a score, which is also its only "probability". Labels of
    records are ignored. Raises `OrditoError` for a task without a head, or a record that it cannot read.
    """
    predictor = task.predictor
    if predictor is None:
        raise OrditoError("this task has no head that predicts: train classification, entailment, similarity or choice")
    was_training = module.training, task.heads.training
    module.eval()
    task.heads.eval()
    answers: list[str | int | float] = []
    chances: list[list[float]] = []
    device = next(module.parameters()).device
    try:
        with torch.no_grad():
            for start in range(0, len(records), BATCH):
                batch = collate([predictor.read(record) for record in records[start : start + BATCH]]).to(device)
                for found in predictor.probabilities(Forward(module, batch)):
                    chances.append(found.tolist())
                    answers.append(_answer(predictor, chances[-1]))
    finally:
        module.train(was_training[0])
        task.heads.train(was_training[1])
    return answers, chances


def _answer(predictor: Predictor, chances: list[float]) -> str | int | float:
    if predictor.regression:
        return chances[0]
    best = max(range(len(chances)), key=chances.__getitem__)
    return predictor.classes[best] if predictor.classes else best
