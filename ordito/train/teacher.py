"""The teacher of a distillation: a frozen model with the student's vocabulary, run in every step or once over all data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import OrditoError
from ordito.nn.runtime import load_transformer
from ordito.nn.transformer import Transformer
from ordito.text.from_checkpoint import load_tokenizer
from ordito.text.tokenizer import Tokenizer
from ordito.train.examples import Text
from ordito.train.losses import top_of

IDS, LOGPROBS = "teacher_ids", "teacher_logs"
"""Arrays of a text that hold the teacher's predictions: its top tokens, and the log-probabilities that `top_of` gives."""

ROWS = 256
"""Rows of logits in memory at once."""


@dataclass(eq=False)
class Teacher:
    """A frozen model, loaded when it is first used: data whose predictions are stored already do not need it."""

    name: str
    student: Tokenizer
    dtype: torch.dtype

    @cached_property
    def module(self) -> Transformer:
        """The teacher, without gradients. Raises `OrditoError` if its vocabulary is not the student's."""
        checkpoint = open_checkpoint(store.locate(self.name).path)
        check_tokens(self.student, load_tokenizer(checkpoint), self.name)
        module = load_transformer(checkpoint, self.dtype)
        module.requires_grad_(False)
        return module

    @torch.no_grad()
    def hidden(self, ids_BT: Tensor, documents_BT: Tensor | None = None) -> Tensor:
        """Its hidden states (B, T, D'), on the device of the ids."""
        return self.module.to(ids_BT.device).hidden(ids_BT, documents=documents_BT)

    @torch.no_grad()
    def project(self, hidden_nD: Tensor) -> Tensor:
        """Its logits (n, V')."""
        return self.module.project(hidden_nD)


def check_tokens(student: Tokenizer, teacher: Tokenizer, name: str) -> None:
    """Raise `OrditoError` unless every id is the same token in both vocabularies.

    Tokens are compared, not sizes alone; only the padding of the embedding beyond the tokenizer's tokens may differ.
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


def with_teacher(text: Text, teacher: Teacher, top_k: int, temperature: float, V: int) -> Text:
    """A text with the teacher's top `top_k` predictions of each token from those before it; zeros for the first token."""
    k = min(top_k, V)
    ids, logprobs = np.zeros((len(text), k), np.int32), np.zeros((len(text), k + 1), np.float32)
    if len(text) > 1:
        hidden_TD = teacher.hidden(torch.from_numpy(text.ids.astype(np.int64))[None])[0, :-1]
        for begin in range(0, len(hidden_TD), ROWS):
            chunk_nD = hidden_TD[begin : begin + ROWS]
            ids_nK, logprobs_nJ = top_of(teacher.project(chunk_nD)[:, :V], k, temperature)
            place = slice(begin + 1, begin + 1 + len(chunk_nD))
            ids[place], logprobs[place] = ids_nK.numpy(), logprobs_nJ.numpy()
    return replace(text, extra={**text.extra, IDS: ids, LOGPROBS: logprobs})
