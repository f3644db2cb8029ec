"""Knowledge distillation: a student learns a teacher's next-token probabilities (arXiv:1503.02531; GKD, arXiv:2306.13649)."""

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
from ordito.train.rollout import OWN, with_own_answers
from ordito.train.settings import Name, Settings
from ordito.train.task import Context, Kind, Record, Task, kind_named
from ordito.train.teacher import IDS, LOGPROBS, Teacher, with_teacher
from ordito.train.terms import count_learned, next_token

ROWS = 64
"""Rows of logits in memory at once: a divergence takes several tensors of this size, where cross-entropy takes one."""


class DistillSettings(Settings):
    """Settings of `distill`."""

    teacher: Name = Field(description="Its name, org/name, folder or GGUF file; it must have the student's tokens.")
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
    """alpha times the next-token loss plus 1 - alpha times the divergence of student and teacher, both means over tokens.

    Raises `OrditoError` for settings that exclude each other.
    """
    if settings.on_policy and (settings.top_k or settings.records != "sft"):
        raise OrditoError("distill.on_policy needs a prompt to answer, and the teacher at hand: set records=sft, and no top_k")
    wanted = kind_named(settings.records)
    reader = wanted.build(wanted.settings(), context)
    V = context.tokenizer.vocab_size  # both heads may be padded beyond it, to different sizes
    half = context.config.precision == "bfloat16"
    teacher = Teacher(settings.teacher, context.tokenizer, torch.bfloat16 if half else torch.float32)
    if settings.top_k is None:
        _ = teacher.module  # load it now: an error should come before the first step

    def read(record: Record) -> Example:
        example = reader.read(record)
        if settings.top_k is None:
            return example
        return replace(
            example, texts=tuple(with_teacher(text, teacher, settings.top_k, settings.temperature, V) for text in example.texts)
        )

    def divergence(forward: Forward) -> Tensor:
        return _divergence_of_top(forward, settings, V) if settings.top_k else _divergence(forward, teacher, settings, V)

    def rewrite(examples: Sequence[Example], step: int) -> Sequence[Example]:
        seed = (context.config.seed, step)
        if np.random.default_rng(seed).random() >= settings.on_policy:
            return examples
        return with_own_answers(context.module, context.tokenizer, examples, seed, settings.max_tokens, context.length)

    objective = settings.alpha * Objective.of(_next_token_of_data()) + (1 - settings.alpha) * Objective.of(
        Term("divergence", divergence, count_learned)
    )
    on_policy = settings.on_policy > 0
    return Task(
        read,
        objective,
        packs=reader.packs and not on_policy,
        chats=reader.chats,
        rewrite=rewrite if on_policy else None,
    )


def _divergence(forward: Forward, teacher: Teacher, settings: DistillSettings, V: int) -> Tensor:
    """The divergence summed over learned tokens, in chunks: logits of either model exist for `ROWS` rows at a time."""
    batch, module = forward.batch, forward.module
    teacher_nD = teacher.hidden(batch.ids_BT, batch.documents_BT)[:, :-1][batch.learn_BT[:, 1:]]

    def loss(logits_nV: Tensor, teacher_nD: Tensor) -> Tensor:
        return distillation(logits_nV[:, :V], teacher.project(teacher_nD)[:, :V], settings.beta, settings.temperature)

    return chunked_sum(loss, module.project, forward.before_nD, forward.head_parameters, teacher_nD, rows=ROWS)


def _divergence_of_top(forward: Forward, settings: DistillSettings, V: int) -> Tensor:
    """`_divergence` from the top tokens that are stored with the data."""
    batch, module = forward.batch, forward.module
    ids_nK, logprobs_nJ = (batch.extra[name][batch.learn_BT] for name in (IDS, LOGPROBS))

    def loss(logits_nV: Tensor, ids_nK: Tensor, logprobs_nJ: Tensor) -> Tensor:
        return distillation_of_top(logits_nV[:, :V], ids_nK.long(), logprobs_nJ, settings.beta, settings.temperature)

    return chunked_sum(loss, module.project, forward.before_nD, forward.head_parameters, ids_nK, logprobs_nJ, rows=ROWS)


def _next_token_of_data() -> Term:
    """The next-token loss, without answers that the student generated: its own samples are not targets."""
    term = next_token()

    def total(forward: Forward) -> Tensor:
        return forward.hidden_BTD.sum() * 0.0 if OWN in forward.batch.extra else term.total(forward)

    return Term("next_token", total, lambda batch: 0.0 if OWN in batch.extra else batch.n_learned)


KINDS = (Kind("distill", "a student learns a teacher's probabilities", DistillSettings, build),)
