"""A head for texts: a linear map from the one hidden state that has read all of a text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito.nn.transformer import Transformer
from ordito.spec import Attention
from ordito.train.forward import Forward
from ordito.train.losses import IMPOSSIBLE

STD = 0.02
"""Of its first weights, as in the published code of GPT-1."""


class TextHead(nn.Module):
    """W dropout(h) + b: scores of a text from its state. The texts of an example lose the same channels (GPT-1's code)."""

    def __init__(self, d_model: int, n_scores: int, *, dropout: float, seed: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.map = nn.Linear(d_model, n_scores)
        nn.init.normal_(self.map.weight, std=STD, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.map.bias)

    def forward(self, states_ECD: Tensor) -> Tensor:
        """States of the C texts of each example (E, C, D) -> their scores (E, C, scores)."""
        kept_E1D = F.dropout(torch.ones_like(states_ECD[:, :1]), self.dropout, self.training)
        scores: Tensor = self.map(states_ECD * kept_E1D)
        return scores


def sees_all(module: Transformer) -> bool:
    """Whether tokens see those behind them, so that the first has read the whole text (BERT)."""
    return any(isinstance(leaf, Attention) and not leaf.causal and not leaf.cross for _, leaf in module.spec.attentions)


def read_states(forward: Forward) -> Tensor:
    """Of each text of each example the state that has read all of it, (E, C, D); zeros where an example has fewer than C.

    It is the last token's, or, where tokens see all of a text, the first one's, through the pooler where there is one.
    """
    batch, module = forward.batch, forward.module
    places = [place for example in batch.places for place in example]
    rows = torch.tensor([place.row for place in places])
    tokens = torch.tensor([place.begin if sees_all(module) else place.end - 1 for place in places])
    states_ND = forward.hidden_BTD[rows, tokens]
    if sees_all(module) and module.spec.pooler is not None:
        states_ND = module.pool(states_ND[:, None])
    return nn.utils.rnn.pad_sequence(list(torch.split(states_ND, [len(example) for example in batch.places])), batch_first=True)


def scores_of_choices(head: TextHead, forward: Forward) -> Tensor:
    """A score of each of an example's texts, (E, C); `IMPOSSIBLE` where an example has fewer."""
    scores_EC = head(read_states(forward))[..., 0].float()
    counts_E1 = torch.tensor([[len(example)] for example in forward.batch.places], device=scores_EC.device)
    missing_EC = torch.arange(scores_EC.shape[1], device=scores_EC.device) >= counts_E1
    return scores_EC.masked_fill(missing_EC, IMPOSSIBLE)


def scores_of_classes(head: TextHead, forward: Forward) -> Tensor:
    """A score of each class, (E, classes), from the sum of the states of an example's texts."""
    scores: Tensor = head(read_states(forward).sum(dim=1, keepdim=True))[:, 0].float()
    return scores
