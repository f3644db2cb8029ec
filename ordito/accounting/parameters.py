"""How many numbers a model has, and how many of them work for one token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ordito.accounting.cache import cached_numbers
from ordito.spec import Block, MixtureOfExperts, Spec
from ordito.spec.node import Shape

CACHE_BYTES = 2
"""Bytes of a cached number: a 16-bit cache."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One tensor of a spec, under its canonical name.

    `parameters` are the numbers that are learned, which are all but the biases by which DeepSeek-V3 balances its experts
    (a rule sets those). `active` are the ones that work for one token: of a stack of experts, those of the chosen.
    """

    name: str
    shape: Shape
    parameters: int
    active: int

    @property
    def ahead(self) -> bool:
        """Whether it belongs to multi-token prediction, without which the model works."""
        return self.name.startswith("ahead.")


@dataclass(frozen=True)
class Count:
    """The size of a model.

    `parameters`: all that are learned, a tied head counted once; `ahead_parameters` are counted apart: the multi-token
    prediction modules, without which the model works. `active_parameters`: those that work for one token, so all but the
    experts that the router leaves out. `kv_bytes_per_token`: bytes that each token adds to a 16-bit cache over all layers,
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
        yield from (tensor(place + name, shape, active) for name, shape, active in working(block))


def tensor(name: str, shape: Shape, active: int) -> Tensor:
    """A tensor of so many active numbers, none of them a parameter if a rule sets it."""
    if name.endswith(".choice_bias"):
        return Tensor(name=name, shape=shape, parameters=0, active=0)
    return Tensor(name=name, shape=shape, parameters=prod(shape), active=active)


def working(block: Block) -> Iterator[tuple[str, Shape, int]]:
    """The tensors of a leaf, relative to its place, each with how many of its numbers work for one token."""
    if not isinstance(block, MixtureOfExperts):
        yield from ((name, shape, prod(shape)) for name, shape in block.tensors())
        return
    of_one = {name.removeprefix(block.expert.name + "."): active for name, _, active in working(block.expert)}
    stacked = f"{block.name}.experts."
    for name, shape in block.tensors():
        active = block.router.top_k * of_one[name.removeprefix(stacked)] if name.startswith(stacked) else prod(shape)
        yield name, shape, active
