"""How many parameters a model has, and how many of them are active for one token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ordito.accounting.cache import cached_numbers
from ordito.spec import Block, MixtureOfExperts, Spec, expect_spec
from ordito.spec.node import Shape

CACHE_BYTES = 2
"""Bytes of a cached number: a 16-bit cache."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a spec, under its canonical name.

    `parameters` are the learned numbers: all but the biases with which DeepSeek-V3 balances its experts, which are set by a
    rule. `active` are those used for one token: of a stack of experts, those of the chosen ones.
    """

    name: str
    shape: Shape
    parameters: int
    active: int

    @property
    def ahead(self) -> bool:
        """Whether it belongs to multi-token prediction, which the model works without."""
        return self.name.startswith("ahead.")


@dataclass(frozen=True)
class Count:
    """The size of a model.

    - `parameters`: all learned ones, a tied head counted once, without `ahead_parameters`, those of multi-token prediction.
    - `active_parameters`: those used for one token, so without the experts that the router does not choose.
    - `kv_bytes_per_token`: bytes that each token adds to a 16-bit KV cache over all layers, while windows are not yet full.
    - `kv_bytes_growing`: the same for the layers that grow up to the model's own context.
    """

    parameters: int
    active_parameters: int
    kv_bytes_per_token: int
    kv_bytes_growing: int
    ahead_parameters: int = 0


def count(spec: Spec) -> Count:
    """Count parameters and cache bytes of `spec`. Raises `OrditoError` for anything but a spec.

    >>> from ordito.families import spec_from_config
    >>> count(spec_from_config({"model_type": "bert"})).parameters  # the defaults of BERT are those of its base model
    109482240
    """
    expect_spec(spec, "account.count")
    every = list(tensors(spec))
    own = [tensor for tensor in every if not tensor.ahead]
    cached = [(cached_numbers(block), block) for _, block in spec.attentions] if spec.generates else []
    growing = [n for n, block in cached if (reach := block.span) is None or reach >= spec.context]
    return Count(
        parameters=sum(tensor.parameters for tensor in own),
        active_parameters=sum(tensor.active for tensor in own),
        kv_bytes_per_token=CACHE_BYTES * sum(n for n, _ in cached),
        kv_bytes_growing=CACHE_BYTES * sum(growing),
        ahead_parameters=sum(tensor.parameters for tensor in every if tensor.ahead),
    )


def tensors(spec: Spec) -> Iterator[Tensor]:
    """Every tensor of `spec`, in the order of `spec.leaves()`."""
    for path, block in spec.leaves():
        place = path.removesuffix(block.name)  # type: ignore[attr-defined]  # every leaf has a name
        yield from (tensor(place + name, shape, active) for name, shape, active in tensors_of(block))


def tensor(name: str, shape: Shape, active: int) -> Tensor:
    """A tensor with so many active numbers; one that a rule sets has no parameters."""
    if name.endswith(".choice_bias"):
        return Tensor(name=name, shape=shape, parameters=0, active=0)
    return Tensor(name=name, shape=shape, parameters=prod(shape), active=active)


def tensors_of(block: Block) -> Iterator[tuple[str, Shape, int]]:
    """The tensors of a leaf: name relative to the leaf's path, shape, and how many of its numbers are active for one token."""
    if not isinstance(block, MixtureOfExperts):
        yield from ((name, shape, prod(shape)) for name, shape in block.tensors())
        return
    of_one = {name.removeprefix(block.expert.name + "."): active for name, _, active in tensors_of(block.expert)}
    stacked = f"{block.name}.experts."
    for name, shape in block.tensors():
        active = block.router.top_k * of_one[name.removeprefix(stacked)] if name.startswith(stacked) else prod(shape)
        yield name, shape, active
