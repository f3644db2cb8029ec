"""Feed-forward networks (MLPs), dense and as mixtures of experts (MoE)."""

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
from ordito.nn.capacity import number_texts, within_capacity
from ordito.nn.lean import silu_gate
from ordito.nn.norm import ACTIVATIONS, AdapterFunction, Linear, gelu_sigmoid
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
    """Hidden activations of a feed-forward, (..., F): act(up), or act(gate) * up, with the spec's clamp and offset."""
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


class StackedAdapter(Protocol):
    """An adapter of stacked linear maps."""

    def per_expert(self) -> Sequence[AdapterFunction]:
        """The adapter of each map."""


class StackedLinear(nn.Module):
    """E linear maps of one shape: weight (E, out, in), bias (E, out), with the active `adapters`, if any."""

    adapters: tuple[StackedAdapter, ...] = ()

    def __init__(self, n: int, d_in: int, d_out: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n, d_out, d_in))
        self.bias = nn.Parameter(torch.empty(n, d_out)) if bias else None

    def grouped(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first map, the next through the second, ...: (n, in) -> (n, out)."""
        base, adapters = self.base(), [adapter.per_expert() for adapter in self.adapters]

        def expert(e: int, x_n: Tensor) -> Tensor:
            y_n = base(e, x_n)
            for adapter in adapters:
                y_n = adapter[e](x_n, y_n, lambda: self.weight[e], None if self.bias is None else self.bias[e])
            return y_n

        return run_grouped(expert, x, counts)

    def base(self) -> Callable[[int, Tensor], Tensor]:
        """A function (e, x (n, in)) -> (n, out): x through the e-th map, without adapters."""
        # unbind, not weight[e]: the gradient of each weight[e] would be a tensor as large as the whole stack, E times.
        weights = _local(self.weight).unbind()
        biases = [None] * len(weights) if self.bias is None else _local(self.bias).unbind()
        return lambda e, x_n: linear(x_n, weights[e], biases[e])


def _local(tensor: Tensor) -> Tensor:
    """The local shard of a `DTensor`, differentiable; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def run_grouped(expert: Callable[[int, Tensor], Tensor], x: Tensor, counts: Sequence[int]) -> Tensor:
    """expert(e, rows) on each group of `counts[e]` rows of x, concatenated, (n, in) -> (n, out).

    Experts without rows are skipped; if there are no rows at all, the first one runs on (0, in), which gives the right shape.
    """
    parts = [(e, x_n) for e, x_n in enumerate(torch.split(x, list(counts))) if len(x_n)] or [(0, x)]
    return torch.cat([expert(e, x_n) for e, x_n in parts])


@dataclass(frozen=True, eq=False)
class Routing:
    """A router's result for T tokens: logits (T, E), fp32, with their autograd graph, and the chosen experts (T, K)."""

    router: Router
    logits_TE: Tensor
    chosen_TK: Tensor


@contextmanager
def record_routings(module: nn.Module) -> Iterator[list[Routing]]:
    """Within this context, every router of a module appends its `Routing` to the list that this yields, in order of execution.

    Activation checkpointing recomputes after the context, which appends nothing; it must be the kind that keeps the autograd
    graph (`use_reentrant=False`). Routers of mixtures inside an expert are not recorded.
    """
    routers, routings = [part for part in module.modules() if isinstance(part, Router)], list[Routing]()
    for router in routers:
        router.record = routings
    try:
        yield routings
    finally:
        for router in routers:
            router.record = None


class Router(Linear):
    """`spec.Router`: logits in fp32, weights (tokens, K) and experts (tokens, K)."""

    record: list[Routing] | None = None
    choices_E: Tensor | None = None
    """How often each expert was chosen since the choice bias was last updated, (E,), if training balances the load with it."""

    def __init__(self, block: spec.Router, d_model: int) -> None:
        super().__init__(d_model, block.n_experts, bias=block.bias)
        self.block = block
        # Updated from counts (auxiliary-loss-free balancing, arXiv:2408.15664), not by gradients: choosing has none.
        self.choice_bias = nn.Parameter(torch.empty(block.n_experts), requires_grad=False) if block.choice_bias else None

    def forward(self, x_TD: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Weights, fp32, and indices of the chosen experts, (T, K) each."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(x_TD.device.type, enabled=False):  # bfloat16 would change the choice between close scores
            logits_TE = nn.functional.linear(x_TD.float(), self.weight.float(), bias)
        choose = self._sparsemixer if self.block.score == "sparsemixer" else self._top_k
        weights_TK, chosen_TK = choose(logits_TE)
        if self.record is not None:
            self.record.append(Routing(self, logits_TE, chosen_TK))
        return weights_TK, chosen_TK

    def _top_k(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """The K experts with the highest scores, within the best groups if there are groups (DeepSeek-V3, arXiv:2412.19437)."""
        b = self.block
        scores_TE = logits_TE.sigmoid() if b.score == "sigmoid" else logits_TE.softmax(dim=-1)
        choice_TE = logits_TE if b.choose_first else scores_TE
        if self.choice_bias is not None:
            choice_TE = choice_TE + self.choice_bias.float()
        if b.n_groups > 1:
            choice_TE = self._mask_groups(choice_TE)
        chosen_TK = choice_TE.topk(b.top_k, dim=-1).indices
        if b.choose_first:
            chosen_logits = logits_TE.gather(1, chosen_TK)
            weights_TK = chosen_logits.sigmoid() if b.score == "sigmoid" else chosen_logits.softmax(dim=-1)
        else:
            weights_TK = scores_TE.gather(1, chosen_TK)
        if b.renormalise:
            weights_TK = weights_TK / (weights_TK.sum(dim=-1, keepdim=True) + 1e-20)
        return weights_TK * b.scale, chosen_TK

    def _sparsemixer(self, logits_TE: Tensor) -> tuple[Tensor, Tensor]:
        """SparseMixer-2 (arXiv:2409.12136): K times the best expert left, with its weight in a softmax over close logits."""
        left, weights, chosen = logits_TE, [], []
        for _ in range(self.block.top_k):
            best, expert = left.max(dim=-1, keepdim=True)
            distance = (best - logits_TE) / torch.maximum(logits_TE.abs(), best)
            near = left.masked_fill(distance > 2 * self.block.jitter, float("-inf")).softmax(dim=-1)
            weights.append(near.gather(1, expert))
            chosen.append(expert)
            left = left.scatter(1, expert, float("-inf"))
        return torch.cat(weights, dim=1) * self.block.scale, torch.cat(chosen, dim=1)

    def _mask_groups(self, choice_TE: Tensor) -> Tensor:
        """The scores of experts in the best groups, and -inf for all others: 0 could win against a negative score. (T, E)."""
        b = self.block
        grouped = choice_TE.view(-1, b.n_groups, b.n_experts // b.n_groups)
        best = grouped.amax(dim=-1) if b.group_score == "max" else grouped.topk(2, dim=-1).values.sum(dim=-1)
        kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1, best.topk(b.top_groups, dim=-1).indices, True)
        return grouped.masked_fill(~kept[..., None], float("-inf")).flatten(1)


class Experts(nn.Module):
    """The E feed-forward experts of a mixture, their weights stacked along the first axis."""

    def __init__(self, block: spec.FeedForward, n: int) -> None:
        super().__init__()
        self.block = b = block
        self.gate = StackedLinear(n, b.d_model, b.d_ff, b.bias) if b.gated else None
        self.up = StackedLinear(n, b.d_model, b.d_ff, b.bias)
        self.down = StackedLinear(n, b.d_ff, b.d_model, b.bias)

    def grouped(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first expert, the next through the second, ...: (n, D) -> (n, D)."""
        gate = None if self.gate is None else self.gate.grouped(x, counts)
        return self.down.grouped(activate(self.block, self.up.grouped(x, counts), gate), counts)


class Mixtures(nn.Module):
    """E experts that are mixtures themselves (hierarchical MoE), their parameters stacked along the first axis."""

    def __init__(self, block: spec.MixtureOfExperts, n: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.template = [MixtureOfExperts(block)]  # in a list, so that its meta parameters are not registered
        for path, tensor in self.template[0].named_parameters():
            owner: nn.Module = self
            for name in path.split(".")[:-1]:
                owner.add_module(name, child := getattr(owner, name, None) or nn.Module())
                owner = child
            owner.register_parameter(path.rpartition(".")[2], nn.Parameter(torch.empty(n, *tensor.shape)))

    def grouped(self, x: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[0]` rows of x through the first mixture, the next through the second, ...: (n, D) -> (n, D)."""
        stacks = {name: tensor.unbind() for name, tensor in self.named_parameters()}

        def expert(e: int, x_n: Tensor) -> Tensor:
            y_n: Tensor = functional_call(self.template[0], {name: stack[e] for name, stack in stacks.items()}, (x_n,))
            return y_n

        return run_grouped(expert, x, counts)


class MixtureOfExperts(nn.Module):
    """`spec.MixtureOfExperts`: each expert runs once, on all tokens that are routed to it.

    In training, a `capacity_factor` c replaces the spec's capacity: each expert processes at most ceil(c T K / E) of the T
    tokens of a text, and drops the others (Switch Transformers, arXiv:2101.03961). It keeps the `first` ones, or the
    `likeliest`: those with the largest router weights, which depends on later tokens too.
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
        """(..., T, D) -> (..., T, D); the spec's capacity holds for each sequence of T tokens."""
        x_TD, router = x.flatten(0, -2), self.block.router
        weights_TK, chosen_TK = self.router(x_TD)
        if self.training and self.capacity_factor is not None:
            assert step is not None, "a capacity factor needs the positions of the texts"
            texts_T, lengths = number_texts(step.q_positions_BT)
            capacities = (self.capacity_factor * router.top_k / router.n_experts * lengths).ceil()
            by_TK = weights_TK if self.keep == "likeliest" else None
            weights_TK = weights_TK * within_capacity(chosen_TK, texts_T, capacities, router.n_experts, by_TK)
        elif router.capacity is not None:
            rows_T = torch.arange(len(x_TD), device=x.device) // x.shape[-2]
            capacities = torch.full((len(x_TD) // x.shape[-2],), router.capacity, device=x.device)
            weights_TK = weights_TK * within_capacity(chosen_TK, rows_T, capacities, router.n_experts)
        # A slot is one of the T * K choices. Sorted by expert, the slots of each are contiguous, in the order of their tokens.
        slots = chosen_TK.flatten().argsort(stable=True)
        counts: list[int] = chosen_TK.flatten().bincount(minlength=router.n_experts).tolist()
        tokens, weights = slots // router.top_k, weights_TK.flatten()[slots, None].to(x.dtype)
        if self.block.weigh == "input":
            y = self.experts.grouped(x_TD[tokens] * weights, counts)
        else:
            y = self.experts.grouped(x_TD[tokens], counts) * weights
        y_TD = torch.zeros_like(x_TD).index_add(0, tokens, y.to(x.dtype))
        if self.shared is not None:
            shared = self.shared(x_TD)
            y_TD = y_TD + (shared if self.shared_gate is None else self.shared_gate(x_TD).sigmoid() * shared)
        return y_TD.view_as(x)
