"""A head for texts: a linear map of one hidden state that attends to the whole text."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito.nn.transformer import Transformer
from ordito.spec import Attention
from ordito.train.forward import Forward
from ordito.train.losses import IMPOSSIBLE

STD = 0.02
"""Standard deviation of its initial weights, as in the published code of GPT-1."""


class TextHead(nn.Module):
    """Scores W dropout(h) + b of a text. All texts of an example have the same dropout mask, as in GPT-1's code."""

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


def is_bidirectional(module: Transformer) -> bool:
    """Whether self-attention is bidirectional (BERT), so that the first token attends to the whole text."""
    return any(isinstance(leaf, Attention) and not leaf.causal and not leaf.cross for _, leaf in module.spec.attentions)


def text_states(forward: Forward) -> Tensor:
    """For each text of each example, a hidden state that attends to all of it, (E, C, D); zeros beyond an example's texts.

    It is that of the last token, or, with bidirectional attention, of the first, through the pooler if there is one.
    """
    batch, module = forward.batch, forward.module
    places = [place for example in batch.places for place in example]
    rows = torch.tensor([place.row for place in places])
    tokens = torch.tensor([place.begin if is_bidirectional(module) else place.end - 1 for place in places])
    states_ND = forward.hidden_BTD[rows, tokens]
    if is_bidirectional(module) and module.spec.pooler is not None:
        states_ND = module.pool(states_ND[:, None])
    return nn.utils.rnn.pad_sequence(list(torch.split(states_ND, [len(example) for example in batch.places])), batch_first=True)


def scores_of_choices(head: TextHead, forward: Forward) -> Tensor:
    """A score of each of an example's texts, (E, C); `IMPOSSIBLE` where an example has fewer."""
    scores_EC = head(text_states(forward))[..., 0].float()
    counts_E1 = torch.tensor([[len(example)] for example in forward.batch.places], device=scores_EC.device)
    missing_EC = torch.arange(scores_EC.shape[1], device=scores_EC.device) >= counts_E1
    return scores_EC.masked_fill(missing_EC, IMPOSSIBLE)


def scores_of_classes(head: TextHead, forward: Forward) -> Tensor:
    """A score of each class, (E, classes), from the sum of the states of an example's texts."""
    scores: Tensor = head(text_states(forward).sum(dim=1, keepdim=True))[:, 0].float()
    return scores
