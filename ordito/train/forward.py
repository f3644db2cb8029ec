"""One forward pass over a batch, of which each part is computed when a term first asks for it, once for all terms."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ordito.nn.feedforward import Routing, record_routings
from ordito.nn.transformer import Transformer
from ordito.train.batch import PADDING, Batch


class Forward:
    """A batch on its way through a model."""

    def __init__(self, module: Transformer, batch: Batch) -> None:
        self.module, self.batch = module, batch

    @cached_property
    def hidden_BTD(self) -> Tensor:
        """Hidden states after the last norm."""
        with record_routings(self.module) as self._routings:
            return self.module.hidden(self.batch.ids_BT, documents=self.batch.documents_BT)

    @cached_property
    def routings(self) -> list[Routing]:
        """What each router found for the T tokens that are there, without padding, in the order in which they ran."""
        self.hidden_BTD  # noqa: B018 - routers run when it is made
        there = self.batch.documents_BT.flatten() != PADDING
        return [Routing(one.router, one.logits_TE[there], one.chosen_TK[there]) for one in self._routings]

    @cached_property
    def targets_n(self) -> Tensor:
        """The n tokens that are learned, (n,)."""
        return self.batch.ids_BT[self.batch.learn_BT]

    @cached_property
    def before_nD(self) -> Tensor:
        """The hidden states from which they are predicted: of the token before each, (n, D)."""
        return self.hidden_BTD[:, :-1][self.batch.learn_BT[:, 1:]]

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """What `module.project` computes with: the head's own parameters, those that it is lent, and maps beside them."""
        head: Any = self.module.head
        lent = [] if head.weight is not None else [table.weight for table in head.tied_to]
        return [*head.parameters(), *lent, *(p for adapter in head.adapters for p in adapter.parameters())]

    def last_states(self) -> list[Tensor]:
        """Of each example, the hidden states of the last token of each of its texts, (texts, D)."""
        places = [place for example in self.batch.places for place in example]
        rows = torch.tensor([place.row for place in places])
        ends = torch.tensor([place.end - 1 for place in places])
        return list(torch.split(self.hidden_BTD[rows, ends], [len(example) for example in self.batch.places]))
