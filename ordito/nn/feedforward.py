"""The feed-forward half of a layer, dense or spread over experts."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ordito import spec
from ordito.nn.norm import ACTIVATIONS, Linear, gelu_sigmoid
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
        return self.down(activate(self.block, self.up(x), None if self.gate is None else self.gate(x)))


def activate(block: spec.FeedForward, up: Tensor, gate: Tensor | None) -> Tensor:
    """What stands between the maps of a feed-forward, (..., F)."""
    act = ACTIVATIONS[block.activation]
    if block.activation == "gelu_sigmoid" and block.slope != 1.702:
        act = partial(gelu_sigmoid, slope=block.slope)
    if gate is None:
        return act(up)
    if block.limit is not None:
        gate, up = gate.clamp(max=block.limit), up.clamp(-block.limit, block.limit)
    return act(gate) * (up + block.up_offset if block.up_offset else up)


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

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Weights and numbers of the chosen experts, each (T, K)."""
        b = self.block
        bias = None if self.bias is None else self.bias.float()
        logits_TE = nn.functional.linear(x_TD.float(), self.weight.float(), bias)
        if b.score == "sparsemixer":
            return self._one_by_one(logits_TE)
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

    def _one_by_one(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """SparseMixer: each choice by the softmax over the logits near the best that is left."""
        left, weights, chosen = logits_TE, [], []
        for _ in range(self.block.top_k):
            best, expert = left.max(dim=-1, keepdim=True)
            distance = (best - logits_TE) / torch.maximum(logits_TE.abs(), best)
            near = left.masked_fill(distance > 2 * self.block.jitter, float("-inf")).softmax(dim=-1)
            weights.append(near.gather(1, expert))
            chosen.append(expert)
            left = left.scatter(1, expert, float("-inf"))
        return torch.cat(weights, dim=1) * self.block.scale, torch.cat(chosen, dim=1)

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
        gate = None if self.gate is None else self.gate.expert(e, x)
        return self.down.expert(e, activate(self.block, self.up.expert(e, x), gate))


class Mixtures(nn.Module):
    """Experts that are mixtures themselves: their tensors, too, are stacked on a first axis."""

    def __init__(self, block: spec.MixtureOfExperts, n: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.one = [MixtureOfExperts(block)]  # a list, so that its empty parameters are not ours
        for path, tensor in self.one[0].named_parameters():
            owner: nn.Module = self
            for name in path.split(".")[:-1]:
                owner.add_module(name, child := getattr(owner, name, None) or nn.Module())
                owner = child
            owner.register_parameter(path.rpartition(".")[2], nn.Parameter(torch.empty(n, *tensor.shape)))

    def expert(self, e: int, x: Tensor) -> Tensor:
        """The e-th mixture of x, (n, D)."""
        return functional_call(self.one[0], {name: tensor[e] for name, tensor in self.named_parameters()}, (x,))


class MixtureOfExperts(nn.Module):
    """`spec.MixtureOfExperts`: each expert runs once, over the tokens that chose it."""

    def __init__(self, block: spec.MixtureOfExperts) -> None:
        super().__init__()
        self.block = block
        self.router = Router(block.router, block.d_model)
        n, expert = block.router.n_experts, block.expert
        self.experts = Experts(expert, n) if isinstance(expert, spec.FeedForward) else Mixtures(expert, n)
        self.shared = FeedForward(block.shared) if block.shared else None
        self.shared_gate = Linear(block.d_model, 1, bias=False) if block.shared_gate else None

    def forward(self, x: Tensor, step: Step | None = None) -> Tensor:
        """(..., T, D) -> (..., T, D); tokens of one sequence stand on the axis before the last."""
        x_TD = x.flatten(0, -2)
        weights_TK, chosen_TK = self.router(x_TD)
        if self.block.router.capacity is not None:
            weights_TK = weights_TK * self._fits(chosen_TK, x.shape[-2], self.block.router.capacity)
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
        return y_TD.view_as(x)

    def _fits(self, chosen_TK: Tensor, length: int, capacity: int) -> Tensor:
        """1 where the expert still has room for the token, in the order of each sequence, else 0; (tokens, K)."""
        n = self.block.router.n_experts
        asked = nn.functional.one_hot(chosen_TK, n).sum(dim=1).view(-1, length, n).cumsum(dim=1).flatten(0, 1)
        return (asked.gather(1, chosen_TK) <= capacity).to(torch.float32)
