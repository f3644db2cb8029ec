"""What each block of a spec does to a token: its formulas, with the numbers of this very model in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isclose

from ordito.spec import (
    Attention,
    Block,
    Dense,
    Embedding,
    FeedForward,
    Head,
    LatentAttention,
    LogTemperature,
    MixtureOfExperts,
    Norm,
    Rope,
    Scaling,
    SteppedTemperature,
    Temperature,
)


@dataclass(frozen=True)
class Formula:
    """One step: what happens, the formula, and the shape of what comes out for one token."""

    what: str
    formula: str
    shape: str = ""


def formulas(leaf: Block, given: str = "h") -> Iterator[Formula]:
    """The steps of one leaf, from the vector that it gets (of an embedding: the id of the token).

    The vector is called h, or what `given` says: x where a norm reads the residual stream, o where it reads a block's output.
    """
    match leaf:
        case Embedding():
            yield from _embedding(leaf)
        case Norm():
            yield Formula("norm", f"{'h' if given == 'x' else given} = {norm(leaf, given)}", f"{leaf.d_model}")
        case Attention():
            yield from _attention(leaf)
        case LatentAttention():
            yield from _latent(leaf)
        case FeedForward():
            yield from _feed_forward(leaf)
        case MixtureOfExperts():
            yield from _mixture(leaf)
        case Dense():
            act = f"{leaf.activation}(W h{_plus(leaf.bias)})" if leaf.activation else f"W h{_plus(leaf.bias)}"
            yield Formula(leaf.name, f"h = {act}, W {leaf.d_out} x {leaf.d_in}", f"{leaf.d_out}")
        case Head():
            yield from _head(leaf)
        case _:
            raise AssertionError(f"no formulas for {type(leaf).__name__}")


def _embedding(leaf: Embedding) -> Iterator[Formula]:
    scale = f"{_number(leaf.scale)} · " if leaf.scale != 1 else ""
    yield Formula("look up", f"x = {scale}E[id], E {leaf.vocab_size} x {leaf.d_model}", f"{leaf.d_model}")
    if leaf.n_positions:
        row = f"p + {leaf.first_position}" if leaf.first_position else "p"
        yield Formula("place", f"x = x + P[{row}], P {leaf.n_positions} x {leaf.d_model}", f"{leaf.d_model}")
    if leaf.n_types:
        yield Formula("type", f"x = x + S[0], S {leaf.n_types} x {leaf.d_model}", f"{leaf.d_model}")


def norm(leaf: Norm, x: str = "x") -> str:
    """The formula of a norm."""
    weight = f"({_number(leaf.weight_offset)} + w)" if leaf.weight_offset else "w"
    rms, layer = f"{x} / √(mean({x}²) + {leaf.eps:g})", f"({x} - mean({x})) / √(var({x}) + {leaf.eps:g})"
    ends = [f" · {weight}" if leaf.weight else "", " + b" if leaf.bias else "", ", all in fp32" if leaf.scale_in_fp32 else ""]
    return (rms if leaf.kind == "rms" else layer) + "".join(ends)


def _attention(leaf: Attention) -> Iterator[Formula]:
    N, G, H, D = leaf.n_heads, leaf.n_kv_heads, leaf.head_dim, leaf.d_model
    of = "e, the encoder's states" if leaf.cross else "h"
    kv = of[0]
    yield Formula("queries", f"q = W_q h{_plus('q' in leaf.bias)}, W_q {N * H} x {D}", f"{N} heads x {H}")
    yield Formula(
        "keys, values",
        f"k = W_k {kv}{_plus('k' in leaf.bias)}, v = W_v {kv}{_plus('v' in leaf.bias)}, each {G * H} x {D}"
        + (f"; {of}" if leaf.cross else ""),
        f"2 x {G} heads x {H}",
    )
    normed = [
        Formula(f"norm of {name}", f"{name} = {norm(block, name)}, head by head", f"{n} heads x {H}")
        for name, block, n in (("q", leaf.q_norm, N), ("k", leaf.k_norm, G))
        if block is not None
    ]
    turned = [Formula("turn", f"q, k = {turn(leaf.rope)}")] if leaf.rope else []
    yield from (turned + normed) if leaf.norm_after_rope else (normed + turned)
    if leaf.temperature:
        yield Formula("sharpen", f"q = q · ({temperature(leaf.temperature)})")
    if leaf.causal and not leaf.cross:
        yield Formula("keep", "k and v go into the cache", f"{2 * G * H} numbers")
    yield from _looking(leaf, sees(leaf), f"head n reads keys and values n // {N // G}" if N != G else "")
    yield Formula("join", f"o = W_o y{_plus('o' in leaf.bias)}, W_o {D} x {N * H}", f"{D}")


def _looking(leaf: Attention, which: str, shared: str) -> Iterator[Formula]:
    score = f"{_number(leaf.scale)} · q·k_j" if leaf.scale != 1 else "q·k_j"
    score += " + b(p - j)" if leaf.relative_bias else ""
    if leaf.softcap:
        score = f"{_number(leaf.softcap)} · tanh({score} / {_number(leaf.softcap)})"
    yield Formula("scores", f"s_j = {score}, over {which}" + (f"; {shared}" if shared else ""), f"{leaf.n_heads} x keys")
    if bias := leaf.relative_bias:
        owner = "the first layer's" if bias.shared else "this layer's"
        yield Formula("distances", f"b: {owner} table, {bias.n_buckets} buckets of distances up to {bias.max_distance}")
    sink = ", of which the sink's part, softmax([s, sink]), is dropped" if leaf.sinks else ""
    yield Formula("attend", f"a = softmax(s){sink}; y = Σ_j a_j v_j", f"{leaf.n_heads} heads x {leaf.head_dim}")


def sees(leaf: Attention) -> str:
    """Which keys a query looks at, p being its position.

    >>> sees(Attention(d_model=8, n_heads=2, n_kv_heads=1, head_dim=4, scale=0.5, window=512))
    'p - 511 ≤ j ≤ p'
    """
    if leaf.cross:
        return "all of the source"
    if not leaf.causal:
        return f"|p - j| < {leaf.window}" if leaf.window else "all tokens"
    low = f"p - {leaf.window - 1} ≤ " if leaf.window else ""
    chunk = f" in the chunk of {leaf.chunk} that p is in" if leaf.chunk else ""
    blocks = ""
    if sparse := leaf.block_sparse:
        blocks = (
            f" in the {sparse.local} newest blocks of {sparse.block}, and every {sparse.stride}th block, another for each head"
        )
    return f"{low}j ≤ p{chunk}{blocks}"


def turn(rope: Rope) -> str:
    """What rotary positions do.

    >>> turn(Rope(dim=64, theta=10000.0))
    'pairs (i, i + 32) turned by p · 10000^(-2i/64)'
    """
    pairs = f"(i, i + {rope.dim // 2})" if rope.layout == "half" else "(2i, 2i + 1)"
    scaled = f", {scaling(rope.scaling)}" if rope.scaling else ""
    return f"pairs {pairs} turned by p · {_number(rope.theta)}^(-2i/{rope.dim}){scaled}"


def scaling(change: Scaling) -> str:
    """How the frequencies are changed for long contexts, with every setting."""
    said = {key: value for key, value in change.to_dict().items() if key != "node"}
    words = [f"{key} {_number(value) if isinstance(value, float) else _short(value)}" for key, value in said.items()]
    return f"{type(change).__name__.removesuffix('Scaling').lower()}-scaled ({', '.join(words)})"


def temperature(factor: Temperature) -> str:
    """The factor on queries."""
    match factor:
        case SteppedTemperature():
            place = f"(p + {factor.offset})" if factor.offset else "p"
            return f"1 + {_number(factor.strength)} · ln(1 + {place} // {factor.period})"
        case LogTemperature():
            return f"max(1, ln(p + 1) / ln {factor.length})"
    raise AssertionError(f"no formula for {type(factor).__name__}")


def _latent(leaf: LatentAttention) -> Iterator[Formula]:
    N, R, D, rope = leaf.n_heads, leaf.kv_rank, leaf.d_model, leaf.rope.dim
    b = _plus(leaf.bias)
    if leaf.q_rank is None:
        yield Formula("queries", f"q = W_q h, W_q {N * leaf.q_dim} x {D}", f"{N} heads x ({leaf.nope_dim} + {rope})")
    else:
        small = f"c_q = rmsnorm(W_down h{b}), {leaf.q_rank} x {D}"
        yield Formula(
            "queries", f"{small}; q = W_up c_q, {N * leaf.q_dim} x {leaf.q_rank}", f"{N} heads x ({leaf.nope_dim} + {rope})"
        )
    yield Formula(
        "latent", f"[c, k_rope] = W_kv h{b}, {R + rope} x {D}; c = rmsnorm(c), eps {leaf.norm_eps:g}", f"{R} + {rope}"
    )
    yield Formula("turn", f"q_rope, k_rope = {turn(leaf.rope)}; k_rope is shared by all heads")
    yield Formula("keep", "c and k_rope go into the cache", f"{R + rope} numbers")
    yield Formula(
        "keys, values",
        f"k = [W_k c, k_rope], W_k {N * leaf.nope_dim} x {R}; v = W_v c, W_v {N * leaf.v_dim} x {R}",
        f"{N} heads x ({leaf.q_dim} + {leaf.v_dim})",
    )
    yield Formula("scores", f"s_j = {_number(leaf.scale)} · q·k_j, over j ≤ p", f"{N} x keys")
    yield Formula("attend", "a = softmax(s); y = Σ_j a_j v_j", f"{N} heads x {leaf.v_dim}")
    yield Formula("join", f"o = W_o y{b}, W_o {D} x {N * leaf.v_dim}", f"{D}")


def _feed_forward(leaf: FeedForward) -> Iterator[Formula]:
    yield Formula(
        "widen", f"u = {inside(leaf)}, {'each ' if leaf.gated else 'W_up '}{leaf.d_ff} x {leaf.d_model}", f"{leaf.d_ff}"
    )
    yield Formula("narrow", f"o = W_down u{_plus(leaf.bias)}, W_down {leaf.d_model} x {leaf.d_ff}", f"{leaf.d_model}")


def inside(leaf: FeedForward) -> str:
    """What stands between the two maps of a feed-forward.

    >>> inside(FeedForward(d_model=4, d_ff=8, activation="silu", gated=True))
    'silu(W_gate h) · (W_up h)'
    """
    act, up = str(leaf.activation), f"W_up h{_plus(leaf.bias)}"
    if act == "gelu_sigmoid" and leaf.slope != 1.702:
        act = f"gelu_sigmoid[{_number(leaf.slope)}]"
    if not leaf.gated:
        return f"{act}({up})"
    gate = f"W_gate h{_plus(leaf.bias)}"
    if leaf.limit is not None:
        limit = _number(leaf.limit)
        gate, up = f"min({gate}, {limit})", f"clip({up}, ±{limit})"
    if leaf.up_offset:
        up = f"{up} + {_number(leaf.up_offset)}"
    return f"{act}({gate}) · ({up})"


def _mixture(leaf: MixtureOfExperts) -> Iterator[Formula]:
    r = leaf.router
    yield Formula(
        "route", f"r = W_r h{_plus(r.bias)}, W_r {r.n_experts} x {leaf.d_model}; {_choice(leaf)}", f"{r.top_k} of {r.n_experts}"
    )
    inner = (
        f"{inside(leaf.expert)}, {leaf.expert.d_ff} wide" if isinstance(leaf.expert, FeedForward) else "a mixture of its own"
    )
    narrow = f"; W_down u{_plus(leaf.expert.bias)}" if isinstance(leaf.expert, FeedForward) else ""
    yield Formula("experts", f"expert_e(h): u = {inner}{narrow}", f"{leaf.d_model}")
    if isinstance(leaf.expert, MixtureOfExperts):
        yield from (Formula(f"  {f.what}", f.formula, f.shape) for f in _mixture(leaf.expert))
    each = "expert_e(w_e · h)" if leaf.weigh == "input" else "w_e · expert_e(h)"
    always = ""
    if leaf.shared:
        gate = "sigmoid(W_s h) · " if leaf.shared_gate else ""
        always = f" + {gate}shared(h): {inside(leaf.shared)}, {leaf.shared.d_ff} wide"
    yield Formula("add up", f"o = Σ_e {each}{always}", f"{leaf.d_model}")


def _choice(leaf: MixtureOfExperts) -> str:
    """How the experts are chosen and weighed."""
    r = leaf.router
    if r.score == "sparsemixer":
        near = f"w = softmax over the logits within {_number(2 * r.jitter)} of the best"
        return f"{near}, one expert after the other{_times(r.scale)}"
    best = f"the best {r.top_k}" + (" by w + b_e" if r.choice_bias else "")
    if r.n_groups > 1:
        by = "best expert" if r.group_score == "max" else "two best experts"
        best += f", out of the {r.top_groups} of {r.n_groups} groups with the {by}"
    chosen = f"{best}; w = {r.score}(r) over those" if r.choose_first else f"w = {r.score}(r), {best}"
    if r.renormalise:
        chosen += ", divided by their sum"
    return chosen + _times(r.scale) + (f", at most {r.capacity} tokens an expert" if r.capacity else "")


def _head(leaf: Head) -> Iterator[Formula]:
    matrix = "E, the embedding" if leaf.tied else "W"
    scale = f"{_number(leaf.scale)} · " if leaf.scale != 1 else ""
    text = f"{scale}{matrix[0]} h{_plus(leaf.bias)}"
    if leaf.softcap:
        text = f"{_number(leaf.softcap)} · tanh({text} / {_number(leaf.softcap)})"
    unused = f"; {len(leaf.unused)} ids that no token has get -∞" if leaf.unused else ""
    named = f"{matrix} " if leaf.tied else "W "
    yield Formula("logits", f"z = {text}, {named}{leaf.vocab_size} x {leaf.d_model}{unused}", f"{leaf.vocab_size}")


def _plus(bias: bool) -> str:
    return " + b" if bias else ""


def _times(scale: float) -> str:
    return f", times {_number(scale)}" if scale != 1 else ""


def _short(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} numbers from {_number(value[0])} to {_number(value[-1])}" if value else "none"
    return str(value)


def _number(value: float) -> str:
    return f"{value:.0f}" if isclose(value, round(value), abs_tol=1e-12) and abs(value) < 1e9 else f"{value:.6g}"
