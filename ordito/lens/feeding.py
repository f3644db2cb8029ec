"""The steps of feed-forward networks and of mixtures of experts."""

from __future__ import annotations

from ordito.lens.step import Step, Where, number
from ordito.spec import Activation, FeedForward, MixtureOfExperts, Router
from ordito.units import plural


def feed_forward(block: FeedForward, path: str, x: str, out: str, where: Where) -> list[Step]:
    """The steps of a feed-forward: up-projections, activation, down-projection."""
    b, up_shape = " + b" if block.bias else "", f"{block.d_ff:,} x {block.d_model:,}"
    steps = []
    for name, symbol in (("gate", "g"), ("up", "u")) if block.gated else (("up", "u"),):
        steps.append(
            Step(
                path=path,
                formula=f"{symbol} = W_{name} {x}{b}",
                notes=(f"W_{name}: {up_shape}",),
                shape=(block.d_ff,),
                recorded=(f"{path}.{name}", "output"),
            )
        )
    cut = [] if block.limit is None else [f"first g = min(g, {number(block.limit)}), u clamped to ±{number(block.limit)}"]
    inner = Step(
        path=path,
        formula=f"t = {hidden(block)}",
        notes=(*cut, activation(block)),
        shape=(block.d_ff,),
        recorded=(f"{path}.down", "input"),
    )
    down = Step(
        path=path,
        formula=f"{out} = W_down t{b}",
        notes=(f"W_down: {block.d_model:,} x {block.d_ff:,}",),
        shape=(block.d_model,),
        recorded=(path, "output"),
    )
    return [*steps, inner, down]


def hidden(block: FeedForward, g: str = "g", u: str = "u") -> str:
    """The formula of the hidden activations of a feed-forward."""
    if not block.gated:
        return f"{block.activation}({u})"
    return f"{block.activation}({g}) · " + (f"({u} + {number(block.up_offset)})" if block.up_offset else u)


ACTIVATIONS: dict[Activation, str] = {
    "silu": "silu(v) = v sigmoid(v)",
    "gelu": "gelu(v) = v Phi(v), Phi: normal CDF",
    "gelu_tanh": "gelu_tanh: v Phi(v), Phi by its tanh approximation",
    "gelu_sigmoid": "gelu_sigmoid(v) = v sigmoid({slope} v)",
    "relu": "relu(v) = max(v, 0)",
    "tanh": "tanh: between -1 and 1",
}


def activation(block: FeedForward) -> str:
    """The definition of the activation."""
    return ACTIVATIONS[block.activation].format(slope=number(block.slope))


def expert(block: FeedForward | MixtureOfExperts, x: str) -> list[str]:
    """Notes on what one expert computes of x; of an expert that is a mixture, its routing too."""
    if isinstance(block, MixtureOfExperts):
        each = [f"each expert is itself a mixture of {block.router.n_experts} experts", *choice(block.router, x)]
        shared = ["with a shared expert", *expert(block.shared, x)] if block.shared else []
        return [*each, *expert(block.expert, x), *shared]
    b = " + b" if block.bias else ""
    up = f"W_up {x}{b}"
    inner = hidden(block, f"W_gate {x}{b}", f"({up})" if b and block.gated and not block.up_offset else up)
    cut = f", gate and up clamped at {number(block.limit)}" if block.limit is not None else ""
    return [f"expert({x}) = W_down ({inner}){b}", f"d_ff {block.d_ff:,}{cut}", activation(block)]


def choice(router: Router, x: str) -> list[str]:
    """Formulas and notes on how a router chooses and weighs experts, in order."""
    r = f"r = W_r {x}{' + b' if router.bias else ''}"
    if router.score == "sparsemixer":
        said = [
            f"{r}; {plural(router.top_k, 'expert')} chosen one after the other, each the largest left",
            f"w = softmax over the logits within a relative distance of {number(2 * router.jitter)} from it",
        ]
    else:
        scored = "r" if router.choose_first else "s"
        said = [r if router.choose_first else f"{r}; s = {router.score}(r)"]
        if router.choice_bias:
            said.append(f"for the choice only, a load-balancing bias is added to {scored}")
        if router.n_groups > 1:
            group = "their largest score" if router.group_score == "max" else "the sum of their two largest scores"
            said.append(f"{router.top_groups} of {router.n_groups} groups are kept, by {group}")
        said.append(f"chosen: the top {router.top_k} of {router.n_experts} experts by {scored}")
        said.append(f"w = {router.score}(r of the chosen)" if router.choose_first else "w = s of the chosen")
    if router.renormalise and router.score != "sparsemixer":
        said.append("w = w / sum(w)")
    if router.scale != 1.0:
        said.append(f"w = {number(router.scale)} w")
    if router.capacity is not None:
        said.append(f"capacity of an expert: the first {plural(router.capacity, 'token')}; for others w = 0")
    return said


def mixture(block: MixtureOfExperts, path: str, x: str, out: str, where: Where) -> list[Step]:
    """The steps of a mixture: routing, the shared expert, and the weighted sum of the chosen experts."""
    router = block.router
    steps = [
        Step(
            path=path,
            formula=choice(router, x)[0],
            notes=(f"W_r: {router.n_experts} x {block.d_model:,}", *choice(router, x)[1:]),
            shape=(router.top_k,),
            recorded=(f"{path}.router", "weights"),
        )
    ]
    each = f"expert_e(w_e {x})" if block.weigh == "input" else f"w_e expert_e({x})"
    total = f"sum_e {each}"
    notes = expert(block.expert, x)
    if block.shared is not None:
        steps += feed_forward(block.shared, f"{path}.shared", x, "c", where)
        gate = f"sigmoid(w_g {x}) " if block.shared_gate else ""
        total += f" + {gate}c"
    result = (path, "output")
    steps.append(Step(path=path, formula=f"{out} = {total}", notes=tuple(notes), shape=(block.d_model,), recorded=result))
    return steps
