"""Lowers attention: keys and values go to a slot of the cache, from which the operation `attend` reads them."""

from __future__ import annotations

import numpy as np

from ordito import _core
from ordito.native.lowering import Lowering, Place, Shared, Slot
from ordito.spec import Attention, LatentAttention, Norm


def attention(lowering: Lowering, b: Attention, path: str, x: Place, add: Place | None) -> Place:
    """attention(x) + add. Queries, keys and values lie side by side in one buffer."""
    heads, groups = b.n_heads * b.head_dim, b.n_kv_heads * b.head_dim
    names = [(f"{path}.q", heads)] + ([] if b.cross else [(f"{path}.k", groups), (f"{path}.v", groups)])
    qkv = lowering.linear(x, names)
    q, k, v = qkv, (qkv[0], heads), (qkv[0], heads + groups)
    if not b.norm_after_rope:
        _head_norms(lowering, b, path, q, k)
    if b.rope is not None:
        lowering.rotate(q, b.rope, b.n_heads + b.n_kv_heads, b.head_dim)  # keys follow queries in the buffer
    if b.norm_after_rope:
        _head_norms(lowering, b, path, q, k)
    if b.temperature is not None:
        if b.temperature not in lowering.temperatures:
            lowering.temperatures.append(b.temperature)
        lowering.builder.temper(q, heads, lowering.temperatures.index(b.temperature))
    slot = _slot_of(lowering, b, path)
    if not b.cross:
        lowering.builder.store(slot, k, v)
    bias, sparse = b.relative_bias, b.block_sparse
    if bias is not None and not bias.shared:
        lowering.relative = lowering.weights.array(f"{path}.relative_bias.weight")
    y = lowering.allocate(heads)
    lowering.builder.attend(
        slot=slot,
        q=q,
        dst=y,
        n_heads=b.n_heads,
        scale=b.scale,
        causal=b.causal,
        cross=b.cross,
        window=b.window or 0,
        chunk=b.chunk or 0,
        softcap=b.softcap or 0,
        sinks=lowering.weights.vector(f"{path}.sinks"),
        relative=lowering.relative if bias else None,
        n_buckets=bias.n_buckets if bias else 0,
        max_distance=bias.max_distance if bias else 0,
        sparse=(sparse.block, sparse.local, sparse.stride) if sparse else (0, 0, 0),
    )
    lowering.release(qkv)
    out = lowering.linear(y, [(f"{path}.o", b.d_model)], add)
    lowering.release(y)
    return out


def _head_norms(lowering: Lowering, b: Attention, path: str, q: Place, k: Place) -> None:
    for norm, at, count in ((b.q_norm, q, b.n_heads), (b.k_norm, k, b.n_kv_heads)):
        if norm is not None and not (b.cross and norm is b.k_norm):
            lowering.norm(norm, f"{path}.{norm.name}", at, at, count)


def _slot_of(lowering: Lowering, b: Attention, path: str) -> int:
    return lowering.model.slot(
        path, Slot(b.n_kv_heads, b.head_dim, b.head_dim, span=(b.span or 0) if b.causal else 0, of_source=b.cross)
    )


def store_source(lowering: Lowering, path: str, b: Attention, source: Place) -> None:
    """Store a cross-attention's keys and values, computed once from the encoder's states."""
    width = b.n_kv_heads * b.head_dim
    kv = lowering.linear(source, [(f"{path}.k", width), (f"{path}.v", width)])
    if b.k_norm is not None:
        lowering.norm(b.k_norm, f"{path}.{b.k_norm.name}", kv, kv, b.n_kv_heads)
    lowering.builder.store(_slot_of(lowering, b, path), kv, (kv[0], width))
    lowering.release(kv)


def latent_attention(lowering: Lowering, b: LatentAttention, path: str, x: Place, add: Place | None) -> Place:
    """The same with multi-head latent attention, whose cache holds [latent ‖ rotary key], as one head for all queries."""
    rms = Norm(kind="rms", d_model=b.kv_rank, eps=b.norm_eps)
    if b.q_rank is None:
        q = lowering.linear(x, [(f"{path}.q", b.n_heads * b.q_dim)])
    else:
        low = lowering.linear(x, [(f"{path}.q_down", b.q_rank)])
        lowering.norm(Norm(kind="rms", d_model=b.q_rank, eps=b.norm_eps), f"{path}.q_norm", low, low, 1)
        q = lowering.linear(low, [(f"{path}.q_up", b.n_heads * b.q_dim)])
        lowering.release(low)
    width = b.kv_rank + b.rope.dim
    key = lowering.linear(x, [(f"{path}.kv_down", width)])
    lowering.norm(rms, f"{path}.kv_norm", key, key, 1)
    lowering.rotate((key[0], b.kv_rank), b.rope, 1, b.rope.dim)
    lowering.rotate((q[0], b.nope_dim), b.rope, b.n_heads, b.q_dim)
    queries, values = _absorbed(lowering.model, path, b)
    absorbed = lowering.allocate(b.n_heads * width)
    lowering.builder.linear(q, absorbed, None, [(w, None, n * b.q_dim, n * width) for n, w in enumerate(queries)])
    lowering.release(q)
    slot = lowering.model.slot(path, Slot(1, width, b.kv_rank, value_in_key=True))
    lowering.builder.store(slot, key, None)
    lowering.release(key)
    latents = lowering.allocate(b.n_heads * b.kv_rank)
    lowering.builder.attend(slot=slot, q=absorbed, dst=latents, n_heads=b.n_heads, scale=b.scale)
    lowering.release(absorbed)
    y = lowering.allocate(b.n_heads * b.v_dim)
    lowering.builder.linear(latents, y, None, [(w, None, n * b.kv_rank, n * b.v_dim) for n, w in enumerate(values)])
    lowering.release(latents)
    out = lowering.linear(y, [(f"{path}.o", b.d_model)], add)
    lowering.release(y)
    return out


def _absorbed(model: Shared, path: str, block: LatentAttention) -> tuple[list[_core.Packed], list[_core.Packed]]:
    """Multi-head latent attention with absorbed projections (arXiv:2405.04434, section 2.1.2), packed for each head.

    The first matrices map a query to one for [latent ‖ rotary key], the second a latent to a value: since q . (K c) =
    (K^T q) . c, keys are never expanded.
    """
    if path not in model.heads:
        exact = model.weights.is_exact(f"{path}.k_up.weight")
        k_up = model.weights.array(f"{path}.k_up.weight").reshape(block.n_heads, block.nope_dim, block.kv_rank)
        v_up = model.weights.array(f"{path}.v_up.weight").reshape(block.n_heads, block.v_dim, block.kv_rank)
        queries = []
        for head in k_up:
            both = np.zeros((block.kv_rank + block.rope.dim, block.q_dim), np.float32)
            both[: block.kv_rank, : block.nope_dim] = head.T
            both[block.kv_rank :, block.nope_dim :] = np.eye(block.rope.dim, dtype=np.float32)
            queries.append(model.weights.pack(both, exact))
        model.heads[path] = queries, [model.weights.pack(head, exact) for head in v_up]
    return model.heads[path]
