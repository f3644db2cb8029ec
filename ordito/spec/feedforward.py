"""Feed-forwards and mixtures of experts. The letters of shapes are those of `ordito.spec.blocks`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ordito.errors import SpecError
from ordito.spec.blocks import GELU_SIGMOID_SLOPE, Activation, SameWidth, linear
from ordito.spec.node import Node, Shape, Size


@dataclass(frozen=True, kw_only=True)
class FeedForward(SameWidth):
    """down(act(up(x))), or, if `gated`, down(act(gate(x)) * (up(x) + `up_offset`)) (arXiv:2002.05202).

    With a `limit`, gate(x) is first clamped to at most `limit` and up(x) to [-limit, limit] (gpt-oss, Phi-3-small). `slope` is
    that of the activation `gelu_sigmoid`, x * sigmoid(slope x).
    """

    name: str = "mlp"
    d_ff: Size
    activation: Activation
    gated: bool
    bias: bool = False
    limit: float | None = None
    up_offset: float = 0.0
    slope: float = GELU_SIGMOID_SLOPE

    def check(self) -> None:
        """Raise `SpecError` for a limit that is not above zero, or that of a feed-forward without a gate."""
        if self.limit is not None and (self.limit <= 0 or not self.gated):
            raise SpecError(f"{self.name}.limit: got {self.limit}, expected more than zero, on a gated feed-forward")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """gate and up (F, D), down (D, F), biases."""
        for projection in ("gate", "up") if self.gated else ("up",):
            yield from linear(f"{self.name}.{projection}", self.d_ff, self.d_model, self.bias)
        yield from linear(f"{self.name}.down", self.d_model, self.d_ff, self.bias)


@dataclass(frozen=True, kw_only=True)
class Router(Node):
    """Which of E experts process a token, and the weight of each.

    The scores are a `softmax` or `sigmoid` of the router's logits W x (+ b, if `bias`); with `choose_first` the softmax runs
    over the chosen logits only (gpt-oss). The `top_k` experts of the highest scores are chosen; with `choice_bias` a learned
    bias is added to the scores for this choice, but not for the weights (DeepSeek-V3). With `n_groups` > 1 only experts of
    the best `top_groups` groups are candidates; a group's score is its highest (`max`, DeepSeek-V2) or the sum of its two
    highest (`top2`, V3). `renormalise` divides the weights by their sum; all are multiplied by `scale`.

    `sparsemixer` chooses one expert after the other: each by the softmax over the logits that are within 2 `jitter` of the
    best one left, relative to their size (Phi-3.5-MoE; arXiv:2310.00811, without its noise). An expert with a `capacity`
    processes only that many tokens of a sequence, the first ones; for the others its output is zero (Switch).
    """

    n_experts: Size
    top_k: Size
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    choose_first: bool = False
    renormalise: bool = False
    scale: float = 1.0
    bias: bool = False
    choice_bias: bool = False
    n_groups: Size = 1
    top_groups: Size = 1
    group_score: Literal["max", "top2"] = "max"
    jitter: float = 0.0
    capacity: Size | None = None

    def check(self) -> None:
        """Raise `SpecError` for groups of unequal size, or if `top_k` exceeds the number of candidates."""
        if self.n_experts % self.n_groups or self.top_groups > self.n_groups:
            raise SpecError(
                f"Router: got {self.top_groups} of {self.n_groups} groups of {self.n_experts} experts, expected equal groups"
            )
        in_group = self.n_experts // self.n_groups
        if self.top_k > (candidates := in_group * self.top_groups):
            raise SpecError(f"Router.top_k: got {self.top_k} of {candidates} experts, expected at most all")
        if self.n_groups > 1 and self.group_score == "top2" and in_group < 2:
            raise SpecError("Router: got groups of one expert, expected at least the two whose scores are summed")


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(SameWidth):
    """Routed experts, and optionally a shared one for every token: y = shared(x) + sum_k w_k expert_k(x).

    `shared_gate` multiplies the shared expert's output by sigmoid(g x) (Qwen1.5-MoE). By `weigh` the weight w_k multiplies
    the expert's output, or its input (Llama 4). An expert may itself be a mixture: a router over groups, each with a router
    over its own experts (hierarchical mixture, arXiv:1701.06538, appendix B). Sources: arXiv:1701.06538, 2101.03961,
    2401.04088, 2401.06066.
    """

    name: str = "mlp"
    router: Router
    expert: FeedForward | MixtureOfExperts
    shared: FeedForward | None = None
    shared_gate: bool = False
    weigh: Literal["input", "output"] = "output"

    def check(self) -> None:
        """Raise `SpecError` if an expert's width is not d_model, or if there is a shared gate without a shared expert."""
        for expert in (self.expert, self.shared):
            if expert is not None and expert.d_model != self.d_model:
                raise SpecError(f"{self.name}: an expert has width {expert.d_model}, expected d_model {self.d_model}")
        if self.shared_gate and self.shared is None:
            raise SpecError(f"{self.name}: shared_gate without a shared expert")

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """router (E, D) and its biases (E,), the experts' tensors stacked on a first axis E, the shared expert's."""
        n = self.router.n_experts
        yield from linear(f"{self.name}.router", n, self.d_model, self.router.bias)
        if self.router.choice_bias:
            yield f"{self.name}.router.choice_bias", (n,)
        for name, shape in self.expert.tensors():
            yield f"{self.name}.experts.{name.removeprefix(self.expert.name + '.')}", (n, *shape)
        if self.shared is not None:
            for name, shape in self.shared.tensors():
                yield f"{self.name}.shared.{name.removeprefix(self.shared.name + '.')}", shape
        if self.shared_gate:
            yield f"{self.name}.shared_gate.weight", (1, self.d_model)
