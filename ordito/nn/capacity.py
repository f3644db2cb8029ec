"""Room at the experts of a mixture: which of the tokens that chose an expert it takes."""

from __future__ import annotations

import torch
from torch import Tensor


def texts_of(positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The text of each token, numbered over all rows from 1, (B * T,), padding as 0; and the tokens of each, (texts + 1,)."""
    positions = positions_BT.flatten()
    texts_T = torch.where(positions >= 0, (positions == 0).cumsum(0), 0)
    return texts_T, texts_T.bincount()


def fits(chosen_TK: Tensor, texts_T: Tensor, capacities: Tensor, n_experts: int, by_TK: Tensor | None = None) -> Tensor:
    """1.0 where an expert has room for a token, else 0.0, (T, K): it takes `capacities[text]` tokens of each text.

    The first have room, or with `by_TK` those of which that is largest, and the first of equals.
    """
    asked = (texts_T[:, None] * n_experts + chosen_TK).flatten()
    if by_TK is None:
        queue = asked.argsort(stable=True)
    else:
        order = by_TK.flatten().argsort(descending=True, stable=True)
        queue = order[asked[order].argsort(stable=True)]
    sizes = asked.bincount()
    ahead = torch.empty_like(asked)
    ahead[queue] = torch.arange(len(asked), device=asked.device) - (sizes.cumsum(0) - sizes)[asked[queue]]
    return (ahead.view_as(chosen_TK) < capacities[texts_T, None]).to(torch.float32)
