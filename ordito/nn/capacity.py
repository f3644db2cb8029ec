"""Expert capacity: which of the tokens that are routed to an expert it processes, and which it drops."""

from __future__ import annotations

import torch
from torch import Tensor


def number_texts(positions_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The number of each token's text, (B * T,), and the length of each text, (texts + 1,), from positions (B, T).

    Texts are numbered from 1 over all rows; padding is text 0.
    """
    positions = positions_BT.flatten()
    texts_T = torch.where(positions >= 0, (positions == 0).cumsum(0), 0)
    return texts_T, texts_T.bincount()


def within_capacity(
    chosen_TK: Tensor, texts_T: Tensor, capacities: Tensor, n_experts: int, by_TK: Tensor | None = None
) -> Tensor:
    """1.0 where a token is within its chosen expert's capacity, 0.0 where it is dropped, (T, K), fp32.

    An expert processes `capacities[text]` tokens of each text: the first ones, or, with `by_TK`, those with the largest values
    there, and the first of equal ones.
    """
    # Expert e of text t is queue t * E + e; a token is kept if fewer than the capacity are ahead of it in its queue.
    queue = (texts_T[:, None] * n_experts + chosen_TK).flatten()
    if by_TK is None:
        order = queue.argsort(stable=True)
    else:
        by_priority = by_TK.flatten().argsort(descending=True, stable=True)
        order = by_priority[queue[by_priority].argsort(stable=True)]
    sizes = queue.bincount()
    ahead = torch.empty_like(queue)
    ahead[order] = torch.arange(len(queue), device=queue.device) - (sizes.cumsum(0) - sizes)[queue[order]]
    return (ahead.view_as(chosen_TK) < capacities[texts_T, None]).to(torch.float32)
