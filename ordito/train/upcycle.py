"""Sparse upcycling (arXiv:2212.05055): a dense model as a mixture of experts with the same outputs, for further training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ordito.errors import ConfigError, OrditoError
from ordito.families import config_from_spec
from ordito.spec import Block, FeedForward, MixtureOfExperts, Residual, Router, Spec, Stack
from ordito.spec.combinators import Parts

Floats = NDArray[np.float32]

TARGETS = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}
"""The architecture of a dense model -> its MoE counterpart."""
SHARED = frozenset({"qwen2_moe"})
"""Architectures that always have a shared expert: it is a copy too, with half of the output, since its gate is sigmoid(0)."""
STD = 0.02
"""Standard deviation of the routers' initial weights."""


def upcycle(
    spec: Spec,
    weights: Mapping[str, Floats],
    n_experts: int,
    top_k: int,
    *,
    granularity: int = 1,
    every: int = 1,
    seed: int = 0,
) -> tuple[Spec, Mapping[str, Floats]]:
    """The spec and weights of a dense model whose feed-forwards become `n_experts` copies, `top_k` of them active per token.

    Router weights of the chosen experts sum to one, so the logits are those of the dense model, whatever the routers choose;
    these start as N(0, 0.02^2), depending on `seed`. Only `every` n-th layer is changed. With a `granularity` g, each copy is
    split into g experts of d_ff / g, whose router rows are equal at first, so that all g of a copy are chosen together (virtual
    groups, arXiv:2410.07524): the model has g `n_experts` experts and chooses g `top_k`. The paper spreads the factor g over
    all maps of an expert; here only the last map has it, where it is exact.

    Tensors are computed when they are read; copies are views. Raises `OrditoError` if no published architecture can express
    the mixture.
    """
    _check(spec, n_experts, top_k, granularity, every)
    router = Router(n_experts=n_experts * granularity, top_k=top_k * granularity, renormalise=True)
    target = TARGETS[spec.architecture]

    def mixture(dense: FeedForward) -> MixtureOfExperts:
        if dense.d_ff % granularity:
            raise OrditoError(
                f"d_ff is {dense.d_ff}, which {granularity} parts do not share evenly: choose another granularity"
            )
        shared = dense if target in SHARED else None
        expert = replace(dense, d_ff=dense.d_ff // granularity)
        return MixtureOfExperts(
            name=dense.name, d_model=dense.d_model, router=router, expert=expert, shared=shared, shared_gate=shared is not None
        )

    new = replace(spec, architecture=target, body=_with_mixtures(spec.body, mixture, every))
    try:
        config_from_spec(new)
    except ConfigError as error:
        raise OrditoError(
            f"this {spec.architecture} model cannot be upcycled: {target} cannot express what it becomes ({error})"
        ) from None
    before = spec.tensors()
    made: dict[str, Callable[[], Floats]] = {
        name: partial(weights.__getitem__, name) for name in new.tensors() if name in before
    }
    mixtures = [(path, leaf) for path, leaf in new.leaves() if isinstance(leaf, MixtureOfExperts)]
    for number, (path, leaf) in enumerate(mixtures):
        made[f"{path}.router.weight"] = partial(_router, n_experts, leaf.d_model, granularity, (seed, number))
        for part in ("gate", "up", "down"):
            dense = partial(weights.__getitem__, f"{path}.{part}.weight")
            share = granularity * (0.5 if leaf.shared else 1.0) if part == "down" else 1.0
            made[f"{path}.experts.{part}.weight"] = partial(_copies, dense, n_experts, granularity, part == "down", share)
            made[f"{path}.shared.{part}.weight"] = dense
        made[f"{path}.shared_gate.weight"] = partial(_zeros, leaf.d_model)
    return new, _LazyTensors({name: made[name] for name in new.tensors()})


class _LazyTensors(Mapping[str, Floats]):
    """Tensors by name, each computed when it is read."""

    def __init__(self, made: Mapping[str, Callable[[], Floats]]) -> None:
        self._made = made

    def __getitem__(self, name: str) -> Floats:
        return self._made[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._made)

    def __len__(self) -> int:
        return len(self._made)


def _router(n_experts: int, d_model: int, granularity: int, seed: tuple[int, int]) -> Floats:
    """Router weights (E g, D): a row per copy, repeated for its g parts."""
    rows = STD * np.random.default_rng(seed).standard_normal((n_experts, d_model), dtype=np.float32)
    return np.repeat(rows, granularity, axis=0)


def _zeros(d_model: int) -> Floats:
    """The gate of a shared expert, (1, D): sigmoid(0) is one half for every token."""
    return np.zeros((1, d_model), np.float32)


def _copies(dense: Callable[[], Floats], n_experts: int, granularity: int, down: bool, share: float) -> Floats:
    """`share` times a weight, split along F and copied: (F, D) -> (E g, F / g, D), or of `down` (D, F) -> (E g, D, F / g)."""
    parts = np.stack(np.split(dense(), granularity, axis=1 if down else 0))
    scaled = parts if share == 1.0 else parts * np.float32(share)
    return np.broadcast_to(scaled, (n_experts, *scaled.shape)).reshape(n_experts * granularity, *scaled.shape[1:])


def _with_mixtures(block: Block, mixture: Callable[[FeedForward], Block], every: int) -> Block:
    """The block with the feed-forwards of every n-th layer of its stacks replaced by mixtures."""
    match block:
        case FeedForward():
            return mixture(block)
        case Residual():
            return Residual(_with_mixtures(block.inner, mixture, every))
        case Stack():
            layers = (
                layer if (number + 1) % every else _with_mixtures(layer, mixture, every)
                for number, layer in enumerate(block.layers)
            )
            return replace(block, layers=tuple(layers))
        case Parts():
            return type(block)(*(_with_mixtures(part, mixture, every) for part in block.parts))
    return block


def _check(spec: Spec, n_experts: int, top_k: int, granularity: int, every: int) -> None:
    if spec.architecture not in TARGETS:
        raise OrditoError(f"a {spec.architecture} model cannot be upcycled, expected one of {', '.join(TARGETS)}")
    if n_experts < 2 or not 1 <= top_k <= n_experts:
        raise OrditoError(f"got {top_k} of {n_experts} experts, expected at least 1 of at least 2, and no more than there are")
    if granularity < 1 or not 1 <= every <= spec.n_layers:
        raise OrditoError(
            f"got granularity {granularity} and every {every}, expected at least 1, and no more than the {spec.n_layers} layers"
        )
