"""The feed-forward half of a layer, dense or spread over experts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ordito import spec
from ordito.nn.capacity import fits, texts_of
from ordito.nn.lean import silu_gate
from ordito.nn.norm import ACTIVATIONS, Beside, Linear, gelu_sigmoid
from ordito.nn.products import linear
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
    if block.activation == "silu" and gate is not None and block.limit is None and not block.up_offset:
        return silu_gate(gate, up)
    act = ACTIVATIONS[block.activation]
    if block.activation == "gelu_sigmoid" and block.slope != spec.GELU_SIGMOID_SLOPE:
        act = partial(gelu_sigmoid, slope=block.slope)
    if gate is None:
        return act(up)
    if block.limit is not None:
        gate, up = gate.clamp(max=block.limit), up.clamp(-block.limit, block.limit)
    return act(gate) * (up + block.up_offset if block.up_offset else up)


class BesideEach(Protocol):
    """What lies beside stacked maps."""

    def each(self) -> Sequence[Beside]:
        """What lies beside each of them."""


class StackedLinear(nn.Module):
    """E linear maps of one shape: weight (E, out, in), bias (E, out). Adapters may lie `beside` them."""

    beside: tuple[BesideEach, ...] = ()

    def __init__(self, n: int, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n, d_out)) if bias else None

    def each(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first map, the next through the second, ...: (n, in) -> (n, out)."""
        plain, beside = self.plain(), [maps.each() for maps in self.beside]

        def expert(e: int, x_n: Tensor) -> Tensor:
            y_n = plain(e, x_n)
            for maps in beside:
                y_n = maps[e](x_n, y_n, lambda: self.weight[e], None if self.bias is None else self.bias[e])
            return y_n

        return apart(expert, x, counts)

    def plain(self) -> Callable[[int, Tensor], Tensor]:
        """(e, x (n, in)) -> (n, out), by the e-th map, without what lies beside it."""
        # Taken apart at once: the gradient of weight[e] is as large as that of the whole, and would be made E times.
        weights = _here(self.weight).unbind()
        biases = [None] * len(weights) if self.bias is None else _here(self.bias).unbind()
        return lambda e, x_n: linear(x_n, weights[e], biases[e])


def _here(tensor: Tensor) -> Tensor:
    """Of a stack that processes divide (a `DTensor`) the part that this one has, with its gradient; else all of it."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def apart(expert: Callable[[int, Tensor], Tensor], x: Tensor, counts: Sequence[int]) -> Tensor:
    """expert(e, rows) of each run of `counts[e]` rows of x, (n, in) -> (n, out); of no rows, what the first makes of none."""
    parts = [(e, x_n) for e, x_n in enumerate(torch.split(x, list(counts))) if len(x_n)] or [(0, x)]
    return torch.cat([expert(e, x_n) for e, x_n in parts])


@dataclass(frozen=True, eq=False)
class Routing:
    """What a router found for T tokens: logits (T, E) in fp32, with their graph, and the chosen experts (T, K)."""

    router: Router
    logits_TE: Tensor
    chosen_TK: Tensor


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Routing]]:
    """A list that every router of a module adds to while this lasts, in the order in which they run.

    Recomputation in the backward pass comes after, and adds nothing; it must be of the kind that keeps the graph
    (`use_reentrant=False`). Routers of mixtures inside an expert are not recorded.
    """
    routers, found = [part for part in module.modules() if isinstance(part, Router)], list[Routing]()
    for router in routers:
        router.record = found
    try:
        yield found
    finally:
        for router in routers:
            router.record = None


class Router(Linear):
    """`spec.Router`: logits in fp32, weights (tokens, K) and experts (tokens, K)."""

    record: list[Routing] | None = None
    choices_E: Tensor | None = None
    """How often each expert was chosen since the bias was last moved, where training counts it."""

    def __init__(self, block: spec.Router, d_model: int) -> None:
        super().__init__(d_model, block.n_experts, bias=block.bias)
        self.block = block
        # It only ever moves by counts (arXiv:2408.15664): a choice has no gradient.
        self.choice_bias = nn.Parameter(torch.empty(block.n_experts), requires_grad=False) if block.choice_bias else None

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Weights and numbers of the chosen experts, each (T, K)."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(x_TD.device.type, enabled=False):  # in bfloat16 near choices would fall otherwise
            logits_TE = nn.functional.linear(x_TD.float(), self.weight.float(), bias)
        choose = self._one_by_one if self.block.score == "sparsemixer" else self._at_once
        weights_TK, chosen_TK = choose(logits_TE)
        if self.record is not None:
            self.record.append(Routing(self, logits_TE, chosen_TK))
        return weights_TK, chosen_TK

    def _at_once(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """The best by score, of those that may be chosen."""
        b = self.block
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

    def each(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first feed-forward, the next through the second, ...: (n, D)."""
        gate = None if self.gate is None else self.gate.each(x, counts)
        return self.down.each(activate(self.block, self.up.each(x, counts), gate), counts)


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

    def each(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first mixture, the next through the second, ...: (n, D)."""
        stacks = {name: tensor.unbind() for name, tensor in self.named_parameters()}
        return apart(lambda e, x_n: functional_call(self.one[0], {k: t[e] for k, t in stacks.items()}, (x_n,)), x, counts)


class MixtureOfExperts(nn.Module):
    """`spec.MixtureOfExperts`: each expert runs once, over the tokens that chose it.

    In training a `capacity_factor` c takes the place of the spec's capacity: of a text of T tokens each expert takes
    ceil(c T K / E), the `first` that come or the `likeliest`, those that give it most weight (which later tokens decide, too).
    """

    capacity_factor: float | None = None
    keep: Literal["first", "likeliest"] = "first"

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
        x_TD, router = x.flatten(0, -2), self.block.router
        weights_TK, chosen_TK = self.router(x_TD)
        if self.training and self.capacity_factor is not None:
            assert step is not None, "a capacity in training needs the texts' positions"
            texts_T, lengths = texts_of(step.q_positions_BT)
            capacities = (self.capacity_factor * router.top_k / router.n_experts * lengths).ceil()
            by_TK = weights_TK if self.keep == "likeliest" else None
            weights_TK = weights_TK * fits(chosen_TK, texts_T, capacities, router.n_experts, by_TK)
        elif router.capacity is not None:
            rows_T = torch.arange(len(x_TD), device=x.device) // x.shape[-2]
            capacities = torch.full((len(x_TD) // x.shape[-2],), router.capacity, device=x.device)
            weights_TK = weights_TK * fits(chosen_TK, rows_T, capacities, router.n_experts)
        # A slot is a token and one of its choices; sorted, those of one expert stand together, in the order of their tokens.
        slots = chosen_TK.flatten().argsort(stable=True)
        counts: list[int] = chosen_TK.flatten().bincount(minlength=router.n_experts).tolist()
        tokens, weights = slots // router.top_k, weights_TK.flatten()[slots, None].to(x.dtype)
        if self.block.weigh == "input":
            y = self.experts.each(x_TD[tokens] * weights, counts)
        else:
            y = self.experts.each(x_TD[tokens], counts) * weights
        y_TD = torch.zeros_like(x_TD).index_add(0, tokens, y.to(x.dtype))
        if self.shared is not None:
            shared = self.shared(x_TD)
            y_TD = y_TD + (shared if self.shared_gate is None else self.shared_gate(x_TD).sigmoid() * shared)
        return y_TD.view_as(x)
