"""The feed-forward half of a layer, dense or spread over experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ordito import spec
from ordito.nn.norm import ACTIVATIONS, Linear
from ordito.nn.step import Step


class FeedForward(nn.Module):
    """`spec.FeedForward`."""

    def __init__(self, block: spec.FeedForward) -> None:
        super().__init__()
        self.block = b = block
        self.gate = Linear(b.d_model, b.d_ff, bias=b.bias) if b.gated else None
        self.up = Linear(b.d_model, b.d_ff, bias=b.bias)
        self.down = Linear(b.d_ff, b.d_model, bias=b.bias)

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        """(..., D) -> (..., D)."""
        act = ACTIVATIONS[self.block.activation]
        return self.down(act(self.up(x)) if self.gate is None else act(self.gate(x)) * self.up(x))


class StackedLinear(nn.Module):
    """E linear maps of one shape: weight (E, out, in), bias (E, out)."""

    def __init__(self, n: int, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n, d_out)) if bias else None

    def expert(self, e: int, x: Tensor) -> Tensor:
        """The e-th map of x, (n, in) -> (n, out)."""
        return nn.functional.linear(x, self.weight[e], None if self.bias is None else self.bias[e])


class Router(Linear):
    """`spec.Router`: logits in fp32, weights (tokens, K) and experts (tokens, K)."""

    def __init__(self, block: spec.Router, d_model: int) -> None:
        super().__init__(d_model, block.n_experts, bias=block.bias)
        self.block = block
        self.choice_bias = nn.Parameter(torch.empty(block.n_experts)) if block.choice_bias else None

    def route(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and numbers of the chosen experts, each (T, K)."""
        b = self.block
        bias = None if self.bias is None else self.bias.float()
        logits_TE = nn.functional.linear(x_TD.float(), self.weight.float(), bias)
        scores_TE = logits_TE.sigmoid() if b.score == "sigmoid" else logits_TE.softmax(dim=-1)
        choice_TE = logits_TE if b.choose_first else scores_TE
        if self.choice_bias is not None:
            choice_TE = choice_TE + self.choice_bias.float()
        if b.n_groups > 1:
            choice_TE = self._keep_groups(choice_TE)
        chosen_TK = choice_TE.topk(b.top_k, dim=-1).indices
        if b.choose_first:
            chosen_logits = logits_TE.gather(1, chosen_TK)
            weights_TK = chosen_logits.sigmoid() if b.score == "sigmoid" else chosen_logits.softmax(dim=-1)
        else:
            weights_TK = scores_TE.gather(1, chosen_TK)
        if b.renormalise:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
        return weights_TK * b.scale, chosen_TK

    def _keep_groups(self, choice_TE: Tensor) -> Tensor:
        """The scores of experts in the best groups; -inf elsewhere, since zero could win against a negative score."""
        b = self.block
        grouped = choice_TE.view(-1, b.n_groups, b.n_experts // b.n_groups)
        best = grouped.amax(dim=-1) if b.group_score == "max" else grouped.topk(2, dim=-1).values.sum(dim=-1)
        kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1, best.topk(b.top_groups, dim=-1).indices, True)
        return grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)


class Experts(nn.Module):
    """The feed-forwards of a mixture, their weights stacked on a first axis."""

    def __init__(self, block: spec.FeedForward, n: int) -> None:
        super().__init__()
        self.block = b = block
        self.gate = StackedLinear(n, b.d_model, b.d_ff, b.bias) if b.gated else None
        self.up = StackedLinear(n, b.d_model, b.d_ff, b.bias)
        self.down = StackedLinear(n, b.d_ff, b.d_model, b.bias)

    def expert(self, e: int, x: Tensor) -> Tensor:
        """The e-th feed-forward of x, (n, D)."""
        act, up = ACTIVATIONS[self.block.activation], self.up.expert(e, x)
        return self.down.expert(e, act(up) if self.gate is None else act(self.gate.expert(e, x)) * up)


class MixtureOfExperts(nn.Module):
    """`spec.MixtureOfExperts`: each expert runs once, over the tokens that chose it."""

    def __init__(self, block: spec.MixtureOfExperts) -> None:
        super().__init__()
        self.block = block
        self.router = Router(block.router, block.d_model)
        self.experts = Experts(block.expert, block.router.n_experts)
        self.shared = FeedForward(block.shared) if block.shared else None
        self.shared_gate = Linear(block.d_model, 1, bias=False) if block.shared_gate else None

    def forward(self, x_BTD: Tensor, step: Step | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x_TD = x_BTD.flatten(0, -2)
        weights_TK, chosen_TK = self.router.route(x_TD)
        y_TD = torch.zeros_like(x_TD)
        for e in range(self.block.router.n_experts):
            tokens, rank = (chosen_TK == e).nonzero(as_tuple=True)
            weights = weights_TK[tokens, rank, None].to(x_TD.dtype)
            if self.block.weigh == "input":
                y_TD = y_TD.index_add(0, tokens, self.experts.expert(e, x_TD[tokens] * weights))
            else:
                y_TD = y_TD.index_add(0, tokens, self.experts.expert(e, x_TD[tokens]) * weights)
        if self.shared is not None:
            shared = self.shared(x_TD)
            y_TD = y_TD + (shared if self.shared_gate is None else self.shared_gate(x_TD).sigmoid() * shared)
        return y_TD.view_as(x_BTD)
