"""A teacher of distillation: a frozen model with the student's tokens, asked in every step or once for all data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import OrditoError
from ordito.model import load_tokenizer
from ordito.nn.runtime import load_transformer
from ordito.nn.transformer import Transformer
from ordito.text.tokenizer import Tokenizer
from ordito.train.examples import Text
from ordito.train.losses import top_of

IDS, LOGS = "teacher_ids", "teacher_logs"
"""What stands beside tokens: the teacher's most probable ones, and what `top_of` says of them."""

ROWS = 256
"""Rows of logits that are held at once."""


@dataclass(eq=False)
class Teacher:
    """A frozen model, loaded when it is first asked: what it said of prepared data is kept, and it then need not come."""

    name: str
    student: Tokenizer
    dtype: torch.dtype

    @cached_property
    def module(self) -> Transformer:
        """Its weights take no gradient. Raises `OrditoError` if its tokens are others than the student's."""
        checkpoint = open_checkpoint(store.locate(self.name).path)
        check_tokens(self.student, load_tokenizer(checkpoint), self.name)
        module = load_transformer(checkpoint, self.dtype)
        module.requires_grad_(False)
        return module

    @torch.no_grad()
    def hidden(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Its hidden states (B, T, D'), where the ids are."""
        return self.module.to(ids_BT.device).hidden(ids_BT, documents=documents_BT)

    @torch.no_grad()
    def project(self, hidden_nD: Tensor) -> Tensor:
        """Its logits (n, V')."""
        return self.module.project(hidden_nD)


def check_tokens(student: Tokenizer, teacher: Tokenizer, name: str) -> None:
    """Raise `OrditoError` unless every id is the same token for both: else a teacher is heard about other words.

    Only what pads a model's table beyond the tokenizer may differ; sizes alone say nothing.
    """
    ours, theirs = student.vocabulary.tokens, teacher.vocabulary.tokens
    for id, (own, other) in enumerate(zip(ours, theirs, strict=False)):
        if own != other:
            raise OrditoError(
                f"{name} is no teacher for this model: its token {id} is {other!r}, here {own!r}; "
                "choose one with the same tokenizer"
            )
    if len(ours) != len(theirs):
        raise OrditoError(
            f"{name} is no teacher for this model: its tokenizer has {len(theirs)} tokens, here {len(ours)}; "
            "choose one with the same tokenizer"
        )


def heard(text: Text, teacher: Teacher, top_k: int, temperature: float, V: int) -> Text:
    """A text with what the teacher says of each token before it comes; of the first, nothing."""
    k = min(top_k, V)
    ids, logs = np.zeros((len(text), k), np.int32), np.zeros((len(text), k + 1), np.float32)
    if len(text) > 1:
        hidden_TD = teacher.hidden(torch.from_numpy(text.ids.astype(np.int64))[None])[0, :-1]
        for begin in range(0, len(hidden_TD), ROWS):
            some = hidden_TD[begin : begin + ROWS]
            ids_nK, logs_nJ = top_of(teacher.project(some)[:, :V], k, temperature)
            here = slice(begin + 1, begin + 1 + len(some))
            ids[here], logs[here] = ids_nK.numpy(), logs_nJ.numpy()
    return replace(text, beside={**text.beside, IDS: ids, LOGS: logs})
