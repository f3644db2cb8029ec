"""A forward pass over a batch, computed on demand, and once for all loss terms."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ordito.nn.feedforward import Routing, record_routings
from ordito.nn.transformer import Transformer
from ordito.train.batch import PADDING, Batch


class Forward:
    """The results of a model on a batch, each computed when it is first used."""

    def __init__(self, module: Transformer, batch: Batch) -> None:
        self.module, self.batch = module, batch

    @cached_property
    def hidden_BTD(self) -> Tensor:
        """Hidden states (B, T, D) after the final norm."""
        with record_routings(self.module) as self._routings:
            return self.module.hidden(self.batch.ids_BT, documents=self.batch.documents_BT)

    @cached_property
    def routings(self) -> list[Routing]:
        """Each router's result for the T tokens that are not padding, in order of execution."""
        self.hidden_BTD  # noqa: B018 - runs the routers
        valid = self.batch.documents_BT.flatten() != PADDING
        return [Routing(one.router, one.logits_TE[valid], one.chosen_TK[valid]) for one in self._routings]

    @cached_property
    def targets_n(self) -> Tensor:
        """Ids of the n learned tokens, (n,)."""
        return self.batch.ids_BT[self.batch.learn_BT]

    @cached_property
    def before_nD(self) -> Tensor:
        """The hidden states that predict `targets_n`: those of the token before each, (n, D)."""
        return self.hidden_BTD[:, :-1][self.batch.learn_BT[:, 1:]]

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of `module.project`: the head's own, the embedding table of a tied head, and its adapters'."""
        head: Any = self.module.head
        tied = [] if head.weight is not None else [table.weight for table in head.tied_to]
        return [*head.parameters(), *tied, *(p for adapter in head.adapters for p in adapter.parameters())]

    def last_states(self) -> list[Tensor]:
        """For each example, the hidden states of the last token of each of its texts, (texts, D)."""
        places = [place for example in self.batch.places for place in example]
        rows = torch.tensor([place.row for place in places])
        ends = torch.tensor([place.end - 1 for place in places])
        return list(torch.split(self.hidden_BTD[rows, ends], [len(example) for example in self.batch.places]))
