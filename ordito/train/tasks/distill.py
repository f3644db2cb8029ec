"""A student learns a teacher's probabilities of every next token (Hinton et al., arXiv:1503.02531; GKD, 2306.13649)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ordito.errors import OrditoError
from ordito.train.chunked import chunked_sum
from ordito.train.examples import Example
from ordito.train.forward import Forward
from ordito.train.losses import distillation, distillation_of_top
from ordito.train.objective import Objective, Term
from ordito.train.rollout import OWN, answered
from ordito.train.settings import Settings
from ordito.train.task import Context, Kind, Record, Task, kind_named
from ordito.train.teacher import IDS, LOGS, Teacher, heard
from ordito.train.terms import count_learned, next_token

ROWS = 64
"""Rows of logits that are held at once: a divergence takes several tensors of them, where cross-entropy takes one."""


class DistillSettings(Settings):
    """Of `distill`."""

    teacher: str = Field(description="Its name, org/name, folder or GGUF file; it must have the student's tokens.")
    records: Literal["pretrain", "sft"] = Field("pretrain", description="How records are read: as this objective reads them.")
    alpha: float = Field(0.5, ge=0, le=1, description="Share of the plain loss on the data's own tokens.")
    beta: float = Field(0.0, ge=0, le=1, description="0 forward KL, 1 reverse KL, between them Jensen-Shannon (GKD).")
    temperature: float = Field(1.0, gt=0, le=100, description="Softens both; the loss is multiplied by its square.")
    top_k: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Ask the teacher once, while the data is prepared, and keep its k most probable tokens.",
    )
    on_policy: float = Field(
        0.0, ge=0, le=1, description="Share of steps in which the student writes the answers itself (sft)."
    )
    max_tokens: int = Field(128, ge=1, description="Longest answer that the student writes.")


def build(settings: DistillSettings, context: Context) -> Task:
    """alpha times the plain loss, 1 - alpha times the divergence of student and teacher; both by token.

    Raises `OrditoError` for settings that exclude each other.
    """
    if settings.on_policy and (settings.top_k or settings.records != "sft"):
        raise OrditoError("distill.on_policy needs a prompt to answer, and the teacher at hand: set records=sft, and no top_k")
    wanted = kind_named(settings.records)
    reader = wanted.build(wanted.settings(), context)
    V = context.tokenizer.vocab_size  # tables may be padded beyond it, each to its own size
    half = context.config.precision == "bfloat16"
    teacher = Teacher(settings.teacher, context.tokenizer, torch.bfloat16 if half else torch.float32)
    if settings.top_k is None:
        _ = teacher.module  # asked in every step: what is wrong with it is told before the first

    def read(record: Record) -> Example:
        example = reader.read(record)
        if settings.top_k is None:
            return example
        return replace(
            example, texts=tuple(heard(text, teacher, settings.top_k, settings.temperature, V) for text in example.texts)
        )

    def soft(forward: Forward) -> Tensor:
        return _soft_of_top(forward, settings, V) if settings.top_k else _soft(forward, teacher, settings, V)

    def rewrite(examples: Sequence[Example], step: int) -> Sequence[Example]:
        seed = (context.config.seed, step)
        if np.random.default_rng(seed).random() >= settings.on_policy:
            return examples
        return answered(context.module, context.tokenizer, examples, seed, settings.max_tokens, context.config.length)

    objective = settings.alpha * Objective.of(_hard()) + (1 - settings.alpha) * Objective.of(
        Term("divergence", soft, count_learned)
    )
    on_policy = settings.on_policy > 0
    return Task(
        read,
        objective,
        packs=reader.packs and not on_policy,
        chats=reader.chats,
        rewrite=rewrite if on_policy else None,
    )


def _soft(forward: Forward, teacher: Teacher, settings: DistillSettings, V: int) -> Tensor:
    """The logits of neither exist for more than a few rows at once."""
    batch, module = forward.batch, forward.module
    theirs_nD = teacher.hidden(batch.ids_BT, batch.documents_BT)[:, :-1][batch.learn_BT[:, 1:]]

    def loss(logits_nV: Tensor, theirs_nD: Tensor) -> Tensor:
        return distillation(logits_nV[:, :V], teacher.project(theirs_nD)[:, :V], settings.beta, settings.temperature)

    return chunked_sum(loss, module.project, forward.before_nD, forward.head_parameters, theirs_nD, rows=ROWS)


def _soft_of_top(forward: Forward, settings: DistillSettings, V: int) -> Tensor:
    batch, module = forward.batch, forward.module
    ids_nK, logs_nJ = (batch.beside[name][batch.learn_BT] for name in (IDS, LOGS))

    def loss(logits_nV: Tensor, ids_nK: Tensor, logs_nJ: Tensor) -> Tensor:
        return distillation_of_top(logits_nV[:, :V], ids_nK.long(), logs_nJ, settings.beta, settings.temperature)

    return chunked_sum(loss, module.project, forward.before_nD, forward.head_parameters, ids_nK, logs_nJ, rows=ROWS)


def _hard() -> Term:
    """The plain loss, of nothing that the student wrote: it would learn to be what it is."""
    plain = next_token()

    def total(forward: Forward) -> Tensor:
        return forward.hidden_BTD.sum() * 0.0 if OWN in forward.batch.beside else plain.total(forward)

    return Term("next_token", total, lambda batch: 0.0 if OWN in batch.beside else batch.n_learned)


KINDS = (Kind("distill", "a student learns a teacher's probabilities", DistillSettings, build),)
