"""Lowers feed-forwards and mixtures of experts, whose routing is one operation."""

from __future__ import annotations

from ordito.native.lowering import Lowering, NotLoweredError, Place
from ordito.spec import FeedForward, MixtureOfExperts


def feed_forward(lowering: Lowering, b: FeedForward, path: str, x: Place, add: Place | None) -> Place:
    """feed_forward(x) + add."""
    names = [(f"{path}.{name}", b.d_ff) for name in (("gate", "up") if b.gated else ("up",))]
    both = lowering.linear(x, names)
    hidden = lowering.allocate(b.d_ff)
    gate, up = (both, (both[0], b.d_ff)) if b.gated else (None, both)
    lowering.builder.activate(gate, up, hidden, b.d_ff, b.activation, b.limit or 0, b.up_offset, b.slope)
    lowering.release(both)
    y = lowering.linear(hidden, [(f"{path}.down", b.d_model)], add)
    lowering.release(hidden)
    return y


def mixture(lowering: Lowering, b: MixtureOfExperts, path: str, x: Place, add: Place | None) -> Place:
    """mixture(x) + add: router, experts, and any shared expert with its gate."""
    expert, router = b.expert, b.router
    if not isinstance(expert, FeedForward):
        raise NotLoweredError("the native runtime has no reading of mixtures within mixtures; load it with backend='torch'")
    logits = lowering.allocate(router.n_experts)
    maps = [(lowering.model.exact_matrix(f"{path}.router.weight"), lowering.weights.vector(f"{path}.router.bias"), 0, 0)]
    lowering.builder.linear(x, logits, None, maps)
    y = lowering.allocate(b.d_model)
    names = {name: f"{path}.experts.{name}" for name in ("gate", "up", "down") if expert.gated or name != "gate"}
    weights = {name: lowering.model.expert_matrices(f"{module}.weight") for name, module in names.items()}
    biases = {name: list(lowering.weights.array(f"{module}.bias")) if expert.bias else [] for name, module in names.items()}
    lowering.builder.experts(
        src=x,
        logits=logits,
        dst=y,
        columns=b.d_model,
        hidden=expert.d_ff,
        router={
            "n_experts": router.n_experts,
            "top_k": router.top_k,
            "score": router.score,
            "choose_first": router.choose_first,
            "renormalise": router.renormalise,
            "scale": router.scale,
            "choice_bias": lowering.weights.vector(f"{path}.router.choice_bias"),
            "n_groups": router.n_groups,
            "top_groups": router.top_groups,
            "group_by_two": router.group_score == "top2",
            "jitter": router.jitter,
            "capacity": router.capacity or 0,
        },
        gate=weights.get("gate", []),
        up=weights["up"],
        down=weights["down"],
        gate_bias=biases.get("gate", []),
        up_bias=biases["up"],
        down_bias=biases["down"],
        weigh_input=b.weigh == "input",
        act=expert.activation,
        limit=expert.limit or 0,
        offset=expert.up_offset,
        slope=expert.slope,
    )
    lowering.release(logits)
    if b.shared is not None:
        shared = feed_forward(lowering, b.shared, f"{path}.shared", x, None)
        if b.shared_gate:
            gate = lowering.linear(x, [(f"{path}.shared_gate", 1)])
            lowering.builder.gate(shared, gate, shared, b.d_model)
            lowering.release(gate)
        lowering.builder.add(y, shared, y, b.d_model)
        lowering.release(shared)
    return y if add is None else lowering.add_to(y, add)
