"""Spec -> exact numbers, without weights: parameters, active parameters, cache bytes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ordito.spec import Attention, Block, LatentAttention, MixtureOfExperts, Spec

CACHE_BYTES = 2
"""Bytes of a cached number: a 16-bit cache."""


@dataclass(frozen=True)
class Count:
    """The size of a model.

    `parameters`: all that are learned, a tied head counted once (so without the biases by which DeepSeek-V3 balances its
    experts, which a rule sets); `ahead_parameters` are counted apart: the multi-token prediction modules,
    without which the model works. `active_parameters`: those that work for one token, so all but the experts that the router
    leaves out. `kv_bytes_per_token`: bytes that each token adds to a 16-bit cache over all layers,
    while windows are not yet full; `kv_bytes_growing`: the part of it that goes on growing beyond every window.
    """

    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    kv_bytes_growing: int
    ahead_parameters: int = 0


def count(spec: Spec) -> Count:
    """Count parameters and cache bytes of `spec`.

    >>> from ordito.families import spec_from_config
    >>> count(spec_from_config({"model_type": "bert"})).parameters  # the defaults of BERT are those of its base model
    109482240
    """
    learned = {name: prod(shape) for name, shape in spec.tensors().items() if not name.endswith(".choice_bias")}
    ahead = sum(n for name, n in learned.items() if name.startswith("ahead."))
    parameters = sum(learned.values()) - ahead
    idle = sum(idle_parameters(block) for path, block in spec.leaves() if not path.startswith("ahead."))
    cached = [(cached_numbers(block), block) for _, block in spec.attentions] if spec.generates else []
    growing = [n for n, block in cached if (reach := span(block)) is None or reach >= spec.context]
    return Count(parameters, parameters - idle, CACHE_BYTES * sum(n for n, _ in cached), CACHE_BYTES * sum(growing), ahead)


def span(block: Attention | LatentAttention) -> int | None:
    """How many positions back a layer looks at most, or None if there is no such bound."""
    return None if isinstance(block, LatentAttention) else block.window or block.chunk


def idle_parameters(block: Block) -> int:
    """Parameters of the experts that a router leaves out, and of those inside the experts that it chooses."""
    if not isinstance(block, MixtureOfExperts):
        return 0
    router, of_one_expert = block.router, sum(prod(shape) for _, shape in block.expert.tensors())
    return (router.n_experts - router.top_k) * of_one_expert + router.top_k * idle_parameters(block.expert)


def cached_numbers(block: Attention | LatentAttention) -> int:
    """Numbers that one token leaves in the cache of one attention: 2 G H, or the latent and its rotary key.

    Cross-attention keeps the source's, which no token adds to.
    """
    if isinstance(block, LatentAttention):
        return block.kv_rank + block.rope.dim
    return 0 if block.cross else 2 * block.n_kv_heads * block.head_dim
