"""The steps of every kind of attention that a spec can describe, and of DeepSeek's multi-head latent attention (MLA)."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial

from ordito.lens.plain import normalised
from ordito.lens.step import Step, Where, dimensions, number
from ordito.spec import (
    Attention,
    LatentAttention,
    LogTemperature,
    Norm,
    RelativeBias,
    Rope,
    Shape,
    SteppedTemperature,
    Temperature,
)


def attention(block: Attention, path: str, x: str, out: str, where: Where) -> list[Step]:
    """The steps of an attention: projections, norms and positions, scores, softmax, values, output."""
    n, g, h = block.n_heads, block.n_kv_heads, block.head_dim
    source, step = "s" if block.cross else x, partial(_step, path)

    def projected(name: str, of: str, heads: int) -> Step:
        bias = f" + b_{name}" if name in block.bias else ""
        matrix = f"W_{name}: {heads * h:,} x {block.d_model:,}"
        of_source = ("s: the encoder's output for each token of the source",) if block.cross and name == "k" else ()
        # A recording of cross-attention has keys of the source's tokens, none of this token.
        at = None if block.cross and name != "q" else name
        return step(f"{name} = W_{name} {of}{bias}", matrix, *of_source, shape=(heads, h), at=at)

    steps = [projected("q", x, n), projected("k", source, g), projected("v", source, g)]
    norms = [step(f"{name} = {normed}", *notes, shape=(heads, h), at=at) for name, normed, notes, heads, at in _norms(block)]
    turns = []
    if block.rope is not None:
        turns = [step("q = rope(q)", *rope(block.rope, where, h), shape=(n, h)), step("k = rope(k)", shape=(g, h))]
    steps += turns + norms if block.norm_after_rope else norms + turns
    if block.temperature is not None:
        factor = temperature(block.temperature, where.position)
        steps.append(step(f"q = {factor} q", "p: the position of the query", shape=(n, h)))
    steps = _final(steps, path, "q") if block.cross else _final(_final(steps, path, "q"), path, "k")
    if where.caches:
        steps.append(step("cache k, v", cached(block)))
    s = f"{number(block.scale)} q·k_j"
    if block.softcap is not None:
        s = f"{number(block.softcap)} tanh({s} / {number(block.softcap)})"
    if block.relative_bias is not None:
        s += " + b[bucket(p - j)]"
    biased = buckets(block.relative_bias, n, block.causal) if block.relative_bias is not None else []
    steps.append(step(f"s_j = {s}", *visible(block, where), *grouped(n, g), *biased))
    softmax = ["a = softmax(s)"]
    if block.sinks:
        sink = "sink: a learned logit per head, without a value"
        softmax = ["a_j = exp(s_j) / (exp(sink) + sum_i exp(s_i))", sink]
    keys = where.source_length if block.cross else where.length
    steps.append(step(*softmax, shape=(n, keys) if keys is not None else (), at="", what="weights"))
    steps.append(step("y = sum_j a_j v_j", shape=(n, h), at="", what="heads"))
    bias = " + b_o" if "o" in block.bias else ""
    heads = f"W_o: {block.d_model:,} x {n * h:,}, heads concatenated"
    steps.append(step(f"{out} = W_o y{bias}", heads, shape=(block.d_model,), at="o"))
    return steps


def latent(block: LatentAttention, path: str, x: str, out: str, where: Where) -> list[Step]:
    """The steps of MLA: queries, the latent from which keys and values are computed, and attention."""
    n, r, turned = block.n_heads, block.kv_rank, block.rope.dim
    b = " + b" if block.bias else ""
    d, step = f"{block.d_model:,}", partial(_step, path)

    split = f"per head: [{block.nope_dim} without rope | {turned} with rope]"
    if block.q_rank is None:
        steps = [step(f"q = W_q {x}", f"W_q: {n * block.q_dim:,} x {d}", split, shape=(n, block.q_dim), at="q")]
    else:
        normed, _ = normalised(Norm(kind="rms", d_model=block.q_rank, eps=block.norm_eps), "d")
        steps = [
            step(f"d = W_qdown {x}{b}", f"W_qdown: {block.q_rank:,} x {d}", shape=(block.q_rank,), at="q_down"),
            step(f"d = {normed}", shape=(block.q_rank,), at="q_norm"),
            step("q = W_qup d", f"W_qup: {n * block.q_dim:,} x {block.q_rank:,}", split, shape=(n, block.q_dim), at="q_up"),
        ]
    normed, _ = normalised(Norm(kind="rms", d_model=r, eps=block.norm_eps), "c")
    of_heads = n * (block.q_dim + block.v_dim)
    steps += [
        step(f"[c | k_r] = W_kvdown {x}{b}", f"W_kvdown: ({r} + {turned}) x {d}", shape=(r + turned,), at="kv_down"),
        step(f"c = {normed}", "the KV latent, shared by all heads", shape=(r,), at="kv_norm"),
        step(
            "q, k_r = rope(q, k_r)",
            f"on the last {turned} channels of each query, and on the shared key k_r",
            *rope(block.rope, where, turned),
            shape=(n, block.q_dim),
            at="",
            what="q",
        ),
    ]
    if where.caches:
        steps.append(step("cache c, k_r", f"{r} + {turned} = {r + turned:,} numbers per token, not {of_heads:,} for all heads"))
    up = f"W_kup: {n * block.nope_dim:,} x {r}"
    steps += [
        step("k = [W_kup c | k_r]", up, shape=(n, block.q_dim), at="", what="k"),
        step("v = W_vup c", f"W_vup: {n * block.v_dim:,} x {r}", shape=(n, block.v_dim), at="", what="v"),
        step(f"s_j = {number(block.scale)} q·k_j", *_with_range("j <= p", where, None, causal=True)),
        step("a = softmax(s)", shape=(n, where.length) if where.length else (), at="", what="weights"),
        step("y = sum_j a_j v_j", shape=(n, block.v_dim), at="", what="heads"),
        step(
            f"{out} = W_o y{b}",
            f"W_o: {d} x {n * block.v_dim:,}, heads concatenated",
            shape=(block.d_model,),
            at="o",
        ),
    ]
    return steps


def _step(path: str, formula: str, *notes: str, shape: Shape = (), at: str | None = None, what: str = "output") -> Step:
    """A step of the attention at `path`; its recording key is `what` of submodule `at` (of the attention itself if empty)."""
    recorded = None if at is None else (f"{path}.{at}".rstrip("."), what)
    return Step(path=path, formula=formula, notes=notes, shape=shape, recorded=recorded)


def _final(steps: list[Step], path: str, symbol: str) -> list[Step]:
    """The steps; the last that computes `symbol` gets the recording key of its final value, as attention reads it."""
    last = max(number for number, step in enumerate(steps) if step.formula.startswith(f"{symbol} = "))
    return [replace(step, recorded=(path, symbol)) if number == last else step for number, step in enumerate(steps)]


def _norms(block: Attention) -> list[tuple[str, str, list[str], int, str]]:
    """The norms of q and k: symbol, formula, notes, heads, submodule."""
    found = []
    pairs = (("q", block.q_norm, block.n_heads, "q_norm"), ("k", block.k_norm, block.n_kv_heads, "k_norm"))
    for symbol, norm, heads, at in pairs:
        if norm is not None:
            formula, note = normalised(norm, symbol)
            found.append((symbol, formula, [f"per head{f'; {note}' if note else ''}"], heads, at))
    return found


def grouped(n: int, g: int) -> list[str]:
    """A note on the key-value head that each query head reads."""
    if n == g:
        return []
    return ["all query heads share one KV head" if g == 1 else f"query head n uses KV head n // {n // g}"]


def cached(block: Attention) -> str:
    """A note on what the KV cache keeps."""
    if block.cross:
        return "of the source, computed once"
    shape = dimensions((block.n_kv_heads, block.head_dim))
    return f"2 x {shape} = {2 * block.n_kv_heads * block.head_dim:,} numbers per token"


def visible(block: Attention, where: Where) -> list[str]:
    """Notes on the positions j that the token at p attends to."""
    if block.cross:
        return ["j: every token of the source"]
    rules = ["j <= p"] if block.causal else []
    if block.window is not None:
        rules.append(f"p - j < {block.window}" if block.causal else f"|p - j| < {block.window}")
    if block.chunk is not None:
        rules.append(f"p // {block.chunk} = j // {block.chunk}")
    notes = _with_range(", ".join(rules) or "all j", where, block, causal=block.causal)
    if (sparse := block.block_sparse) is not None:
        notes.append(
            f"of blocks of {sparse.block}: head n attends to the newest {sparse.local}, its own too, and block B if "
            f"B + n + 1 is a multiple of {sparse.stride}"
        )
    return notes


def _with_range(rules: str, where: Where, block: Attention | None, *, causal: bool) -> list[str]:
    """The rule of the mask, and the range of positions that it gives for this token."""
    if where.position is None or where.length is None:
        return [f"mask: {rules}"]
    p, first, last = where.position, 0, where.position if causal else where.length - 1
    if block is not None and block.window is not None:
        first, last = max(first, p - block.window + 1), min(last, p + block.window - 1)
    if block is not None and block.chunk is not None:
        first, last = max(first, p - p % block.chunk), min(last, p - p % block.chunk + block.chunk - 1)
    return [f"mask: {rules}; here j = {first} to {last}" if first < last else f"mask: {rules}; here j = {first}"]


def rope(block: Rope, where: Where, width: int) -> list[str]:
    """Notes on a rotary embedding: channel pairs, frequencies, scaling, angles."""
    half = block.dim // 2
    pair = f"(i, i + {half})" if block.layout == "half" else "(2i, 2i + 1)"
    notes = [f"rotates channels {pair} by p · f_i", f"f_i = {number(block.theta)} ^ (-2i / {block.dim})"]
    if block.dim < width:
        notes.append(f"the first {block.dim} of {width} channels; the others are unchanged")
    length = where.length or 1
    frequencies = block.frequencies(length)
    if block.scaling is not None:
        kind = type(block.scaling).__name__.removesuffix("Scaling")
        kind = {"Yarn": "YaRN", "LongRope": "LongRoPE", "Llama3": "Llama 3"}.get(kind, kind)
        given = {field.name: getattr(block.scaling, field.name) for field in fields(block.scaling)}
        settings = [_setting(name, value) for name, value in given.items() if value is not None]
        notes.append(f"f_i scaled by {kind} ({', '.join(settings)})")
    if (magnitude := block.magnitude(length)) != 1.0:
        notes.append(f"rotated channels times {number(magnitude)} (attention factor)")
    if where.position is None:
        notes.append(f"angles per position: {frequencies[0]:.4g} to {frequencies[-1]:.3g} rad")
    else:
        first, last = (where.position * frequency for frequency in (frequencies[0], frequencies[-1]))
        notes.append(f"angles at p = {where.position}: {first:.4g} to {last:.3g} rad")
    return notes


def _setting(name: str, value: object) -> str:
    if isinstance(value, tuple):
        return f"{name} {min(value):.4g} to {max(value):.4g}"
    return f"{name} {number(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value}"


def temperature(scaling: Temperature, position: int | None) -> str:
    """The formula of the factor on queries."""
    match scaling:
        case SteppedTemperature():
            p = f"(p + {scaling.offset})" if scaling.offset else "p"
            formula = f"(1 + {number(scaling.strength)} ln(1 + {p} // {scaling.period}))"
        case LogTemperature():
            formula = f"max(1, ln(p + 1) / ln({scaling.length}))"
        case _:
            raise AssertionError(f"no formula of {type(scaling).__name__}")
    return formula if position is None else f"{formula} = {number(scaling.factor(position))} ·"


def buckets(bias: RelativeBias, n_heads: int, causal: bool) -> list[str]:
    """Notes on how the distance of two tokens selects a learned bias."""
    one_side = bias.n_buckets if causal else bias.n_buckets // 2
    sides = "for past positions" if causal else "per direction"
    return [
        f"b: {bias.n_buckets} buckets x {n_heads} heads, one table for all layers",
        f"{one_side} buckets {sides}: {one_side // 2} for exact distances, the others logarithmic up to {bias.max_distance}",
    ]
