"""Spec -> exact numbers, without weights: parameters, active parameters, cache bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ordito.spec import Attention, LatentAttention, MixtureOfExperts, Spec

CACHE_BYTES = 2
"""Bytes of a cached number: a 16-bit cache."""


@dataclass(frozen=True)
class Count:
    """The size of a model.

    `parameters`: all, a tied head counted once. `active_parameters`: those that work for one token, so all but the
    experts that the router leaves out. `kv_bytes_per_token`: bytes that each token adds to a 16-bit cache over all layers,
    while windows are not yet full; `kv_bytes_growing`: the part of it that goes on growing beyond every window.
    """

    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    kv_bytes_growing: int


def count(spec: Spec) -> Count:
    """Count parameters and cache bytes of `spec`.

    >>> from ordito.families import spec_from_config
    >>> count(spec_from_config({"model_type": "llama"})).parameters  # the defaults of LLaMA are those of LLaMA 2 7B
    6738415616
    """
    parameters = sum(prod(shape) for shape in spec.tensors().values())
    idle = 0
    for _, block in spec.leaves():
        if isinstance(block, MixtureOfExperts):
            of_one_expert = sum(prod(shape) for _, shape in block.expert.tensors())
            idle += (block.router.n_experts - block.router.top_k) * of_one_expert
    cached = [(cached_numbers(block), block) for _, block in spec.attentions] if spec.generates else []
    growing = [n for n, block in cached if isinstance(block, LatentAttention) or not (block.window or block.chunk)]
    return Count(parameters, parameters - idle, CACHE_BYTES * sum(n for n, _ in cached), CACHE_BYTES * sum(growing))


def cached_numbers(block: Attention | LatentAttention) -> int:
    """Numbers that one token leaves in the cache of one attention: 2 G H, or the latent and its rotary key."""
    if isinstance(block, LatentAttention):
        return block.kv_rank + block.rope.dim
    return 2 * block.n_kv_heads * block.head_dim
