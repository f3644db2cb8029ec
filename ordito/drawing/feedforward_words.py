"""Descriptions of feed-forward networks and mixtures of experts."""

from __future__ import annotations

from ordito.drawing.facts import Fact
from ordito.drawing.sizes import brief, idle, number, parameters
from ordito.spec import FeedForward, MixtureOfExperts, Router

GATED = {
    "silu": "SwiGLU",
    "gelu": "GeGLU",
    "gelu_tanh": "GeGLU",
    "gelu_sigmoid": "GeGLU",
    "relu": "ReGLU",
    "tanh": "Gated tanh",
}
PLAIN = {"silu": "SiLU", "gelu": "GELU", "gelu_tanh": "GELU", "gelu_sigmoid": "GELU", "relu": "ReLU", "tanh": "Tanh"}
FORMS = {"gelu": "exact (erf)", "gelu_tanh": "tanh approximation"}
SCORES = {"softmax": "softmax", "sigmoid": "sigmoid", "sparsemixer": "SparseMixer"}


def feed_forward_title(block: FeedForward) -> str:
    """The kind of feed-forward, by its usual name (SwiGLU, GeGLU, MLP)."""
    return f"{(GATED if block.gated else PLAIN)[block.activation]} feed-forward"


def feed_forward_facts(block: FeedForward) -> tuple[Fact, ...]:
    """The settings of a feed-forward."""
    facts = [Fact("d_ff", f"{block.d_ff:,}")]
    if block.activation == "gelu_sigmoid":
        facts.append(Fact("GELU", f"x · sigmoid({number(block.slope)} x)"))
    elif block.activation in FORMS:
        facts.append(Fact("GELU", FORMS[block.activation]))
    if block.up_offset:
        facts.append(Fact("up", f"+ {number(block.up_offset)} before gating"))
    if block.limit is not None:
        facts.append(Fact("clamp", f"gate ≤ {number(block.limit)}, |up| ≤ {number(block.limit)}"))
    if block.bias:
        facts.append(Fact("bias", "on all projections"))
    return tuple(facts)


def mixture_facts(block: MixtureOfExperts) -> tuple[Fact, ...]:
    """The settings of a mixture."""
    working = parameters(block) - idle(block)
    facts = [
        Fact("experts", f"{block.router.top_k:,} of {block.router.n_experts:,} per token"),
        *router_facts(block.router),
        Fact("expert", _expert(block.expert)),
        *_particulars(block.expert),
    ]
    if block.shared is not None:
        other = _particulars(block.shared) if _particulars(block.shared) != _particulars(block.expert) else ()
        more = "".join(f", {fact.key} {fact.value}" for fact in other)
        facts.append(Fact("shared", _expert(block.shared) + more + (", times a sigmoid gate" if block.shared_gate else "")))
    if block.weigh == "input":
        facts.append(Fact("weight", "applied to an expert's input"))
    return (*facts, Fact("active", f"{brief(working)} per token"))


def router_facts(router: Router) -> tuple[Fact, ...]:
    """How the experts are chosen and weighed."""
    how = SCORES[router.score]
    if router.score == "sparsemixer" and router.jitter:
        how += f", jitter {number(router.jitter)}"
    steps = [f"top-{router.top_k}, then {how}" if router.choose_first else how]
    if router.bias:
        steps.append("bias")
    if router.choice_bias:
        steps.append("load-balancing bias")
    facts = [Fact("router", ", ".join(steps))]
    if router.n_groups > 1:
        best = {"max": "maximum", "top2": "top-2 sum"}[router.group_score]
        facts.append(Fact("groups", f"{router.top_groups} of {router.n_groups}, by {best}"))
    weights = [
        *(["normalised to sum 1"] if router.renormalise else []),
        *([f"× {number(router.scale)}"] if router.scale != 1 else []),
    ]
    if weights:
        facts.append(Fact("weights", ", ".join(weights)))
    if router.capacity is not None:
        facts.append(Fact("capacity", f"{router.capacity:,} tokens per expert"))
    return tuple(facts)


def _expert(block: FeedForward | MixtureOfExperts) -> str:
    if isinstance(block, MixtureOfExperts):
        facts = "; ".join(f"{fact.key} {fact.value}" for fact in mixture_facts(block))
        return f"nested mixture: {facts}"
    return f"{feed_forward_title(block).removesuffix(' feed-forward')}, d_ff {block.d_ff:,}"


def _particulars(block: FeedForward | MixtureOfExperts) -> tuple[Fact, ...]:
    """Settings of an expert that its summary leaves out."""
    return feed_forward_facts(block)[1:] if isinstance(block, FeedForward) else ()
