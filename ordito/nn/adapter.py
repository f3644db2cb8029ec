"""Adapters of a frozen transformer: low-rank updates of linear maps (LoRA, arXiv:2106.09685; DoRA, arXiv:2402.09353).

The transformer keeps its modules, its parameters and their names. `Adapters` holds the low-rank maps of several adapters by
name, and attaches those of the active one to the linear maps that they change (`Linear.adapters`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito.checkpoint.adapter import LowRank
from ordito.errors import OrditoError, did_you_mean
from ordito.nn.arrays import floats_of
from ordito.nn.feedforward import Router, StackedLinear
from ordito.nn.nf4 import Nf4Linear, Nf4StackedLinear
from ordito.nn.norm import AdapterFunction, Linear, Table
from ordito.nn.transformer import Head, Transformer


class LowRankMap(nn.Module):
    """`LowRank` as a module, of a linear map: a (R, in), b (out, R), magnitude (out,) for DoRA; of E stacked maps, each with a
    first axis E.

    In training, `dropout` is the probability that an element of the input of `a` is dropped; token ids are not.
    """

    def __init__(self, change: LowRank, dtype: torch.dtype, dropout: float = 0.0) -> None:
        super().__init__()
        self.scaling, self.embedding, self.dropout = change.scaling, change.embedding, dropout
        self.a, self.b = _parameter(change.a, dtype), _parameter(change.b, dtype)
        self.magnitude = None if change.magnitude is None else _parameter(change.magnitude, dtype)

    def forward(self, x: Tensor, y: Tensor, weight: Callable[[], Tensor], bias: Tensor | None = None) -> Tensor:
        """W' x + bias, (n, out), from y = W x + bias, which may be overwritten. `weight` returns W (out, in).

        Of an embedding, x are token ids (n,), and `weight` returns its table (V, D), W transposed.
        """
        return self._apply_low_rank(self.a, self.b, self.magnitude, x, y, weight, bias)

    def per_expert(self) -> list[AdapterFunction]:
        """The adapter of each of E stacked maps."""
        magnitudes = [None] * len(self.a) if self.magnitude is None else self.magnitude.unbind()
        parts = zip(self.a.unbind(), self.b.unbind(), magnitudes, strict=True)
        return [partial(self._apply_low_rank, a, b, magnitude) for a, b, magnitude in parts]

    def _apply_low_rank(
        self,
        a: Tensor,
        b: Tensor,
        magnitude: Tensor | None,
        x: Tensor,
        y: Tensor,
        weight: Callable[[], Tensor],
        bias: Tensor | None,
    ) -> Tensor:
        drops = self.training and self.dropout > 0 and not self.embedding
        dropped = F.dropout(x, self.dropout) if drops else x
        low = (F.embedding(dropped, a.T) if self.embedding else F.linear(dropped, a)).to(y.dtype)
        if magnitude is None:
            return y.addmm_(low, b.T.to(y.dtype), alpha=self.scaling)
        w = weight()
        gain = (magnitude / self._row_norms(a, b, w)).to(y.dtype)
        if drops:
            # As in PEFT: y + (gain - 1) W d + gain s B A d, with d = dropout(x); only y sees x without dropout.
            return y + torch.addmm((gain - 1) * F.linear(dropped, w), low, (gain[:, None] * b).T, alpha=self.scaling)
        y.addmm_(low, b.T.to(y.dtype), alpha=self.scaling)
        return gain * y if bias is None else torch.addcmul((1 - gain) * bias, y, gain)

    @torch.no_grad()
    def _row_norms(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """Norms of the rows of W + s B A, (out,), without computing that matrix.

        For rows w and b: |w|^2 + 2 s b A w^T + s^2 b A A^T b^T. Constants to autograd, as in DoRA's paper (section 4.3).
        """
        w, s = weight.T if self.embedding else weight, self.scaling
        own = torch.linalg.vector_norm(w, dim=1, dtype=torch.float32).square()
        cross = ((w @ a.T) * b).sum(dim=1, dtype=torch.float32)
        added = ((b @ (a @ a.T)) * b).sum(dim=1, dtype=torch.float32)
        return (own + 2 * s * cross + s * s * added).clamp(min=0).sqrt().to(b.dtype)

    def change(self) -> LowRank:
        """The current values as a `LowRank` of fp32 arrays."""
        a, b = floats_of(self.a), floats_of(self.b)
        return LowRank(a, b, self.scaling, None if self.magnitude is None else floats_of(self.magnitude), self.embedding)


class Adapters(nn.Module):
    """The adapters of one transformer, which is frozen: `add` them by name, then `use` one, or none.

    Parameters are named by adapter and canonical module: `NAME.layers.0.attention.q.a`. Tensors that replace those of the base
    (`saved`, PEFT's modules_to_save) are swapped in when the adapter becomes active, and out when it is no longer.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = [transformer.requires_grad_(False)]  # in a list, so that its parameters are not registered
        self.active: str | None = None
        self._maps: dict[str, dict[str, LowRankMap]] = {}
        self._saved: dict[str, dict[str, nn.Parameter]] = {}
        self._base: dict[str, nn.Parameter | None] = {}

    @property
    def names(self) -> list[str]:
        """Names of the adapters."""
        return list(self._maps)

    def add(
        self,
        name: str,
        changes: Mapping[str, LowRank],
        saved: Mapping[str, np.ndarray] | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Add an adapter without activating it: `changes` by canonical name of the module, `saved` by that of the tensor.

        An array that is saved under two names becomes one parameter (tied embedding and head). Raises `OrditoError` if the name
        is taken or not an identifier, if a module or tensor is unknown or cannot be changed, or if a shape differs.
        """
        if name in self._maps or not name.isidentifier() or hasattr(self, name):
            raise OrditoError(f"{name!r} cannot be the name of another adapter, expected a word that is not {self.names}")
        base = self.transformer[0]
        dtype = next(base.parameters()).dtype
        for path, change in changes.items():
            _check_fits(base, path, change)
        if unknown := sorted({*(saved or ())} - base.spec.tensors().keys() - {"head.weight"}):
            raise OrditoError(f"{unknown[0]!r} is no tensor of the base{did_you_mean(unknown[0], base.spec.tensors())}")
        self._maps[name] = {path: LowRankMap(change, dtype, dropout) for path, change in changes.items()}
        once = {id(array): _parameter(array, dtype) for array in (saved or {}).values()}
        self._saved[name] = {path: once[id(array)] for path, array in (saved or {}).items()}
        self.add_module(name, tree := nn.Module())
        for path, low_rank in self._maps[name].items():
            _set_nested(tree, path, low_rank)
        for path, parameter in self._saved[name].items():
            _set_nested(tree, path, parameter)
        table = f"{base.spec.embedding.name}.tokens.weight"
        if table in self._saved[name] and base.spec.tied:
            # The head shares the base's table, not the adapter's.
            self._saved[name].setdefault("head.weight", base.get_parameter(table))

    def use(self, name: str | None) -> None:
        """Activate the adapter of this name, or, with None, only the base. Raises `OrditoError` for an unknown name."""
        if name is not None and name not in self._maps:
            raise OrditoError(f"there is no adapter {name!r}{did_you_mean(name, self._maps)}; there are {self.names}")
        base = self.transformer[0]
        if self.active is not None:
            for path in self._maps[self.active]:
                _attach(base, path)
            for path, parameter in self._base.items():
                _swap_parameter(base, path, parameter)
            self._base = {}
        if name is not None:
            for path, low_rank in self._maps[name].items():
                _attach(base, path, low_rank)
            for path, parameter in self._saved[name].items():
                self._base[path] = _swap_parameter(base, path, parameter)
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """`use`, until the context ends."""
        previous = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(previous)

    def changes(self, name: str) -> dict[str, LowRank]:
        """The current low-rank changes of an adapter, by canonical name of the module."""
        return {path: low_rank.change() for path, low_rank in self._maps[name].items()}

    def saved(self, name: str) -> dict[str, np.ndarray]:
        """The current tensors of an adapter that replace those of the base, fp32, by canonical name."""
        once = {id(parameter): floats_of(parameter) for parameter in self._saved[name].values()}
        return {path: once[id(parameter)] for path, parameter in self._saved[name].items()}

    def merged(self, name: str) -> dict[str, Tensor]:
        """The weights that an adapter changes, merged with its changes, fp32, by canonical name. The base is not modified.

        A tied head is untied, as `head.weight`, if it or the embedding is changed.
        """
        base = self.transformer[0]
        with self.using(None):
            weights = {path: weight_of(base.get_submodule(path)).detach().float() for path in self._maps[name]}
        merged = {path: torch.from_numpy(array) for path, array in self.saved(name).items()}
        for path, change in self.changes(name).items():
            weight = floats_of(weights[path])
            changed = change.merged(weight.T).T if change.embedding else change.merged(weight)
            merged[f"{path}.weight"] = torch.from_numpy(np.ascontiguousarray(changed)).to(weights[path].device)
        table = f"{base.spec.embedding.name}.tokens"
        if table in weights and base.spec.tied:
            merged.setdefault("head.weight", weights[table])
        return merged

    @contextmanager
    def merging(self) -> Iterator[None]:
        """Merge the active adapter into the base until the context ends, which is faster; then restore the base, to the bit.

        Maps of NF4 weights stay attached.
        """
        base, name = self.transformer[0], self.active
        assert name is not None, "no adapter is active"
        merged = {path: tensor for path, tensor in self.merged(name).items() if path not in self._saved[name]}
        originals: dict[str, nn.Parameter | None] = {}
        for path, tensor in merged.items():
            module = path.removesuffix(".weight")
            if not isinstance(base.get_submodule(module), (Nf4Linear, Nf4StackedLinear)):
                dtype = next(base.parameters()).dtype
                originals[path] = _swap_parameter(base, path, nn.Parameter(tensor.to(dtype), requires_grad=False))
                _attach(base, module)
        try:
            yield
        finally:
            for path, parameter in originals.items():
                module = path.removesuffix(".weight")
                _swap_parameter(base, path, parameter)
                _attach(base, module, *([self._maps[name][module]] if module in self._maps[name] else []))


def _check_fits(base: Transformer, path: str, change: LowRank) -> None:
    modules = dict(base.named_modules())
    module = modules.get(path)
    if not isinstance(module, (Linear, StackedLinear, Table, Head)) or isinstance(module, Router):
        kind = f"no such module{did_you_mean(path, modules)}" if module is None else f"a {type(module).__name__}"
        raise OrditoError(f"{path!r} cannot have an adapter, it is {kind}; merge the adapter")
    shapes = base.spec.tensors()
    shape = shapes.get(f"{path}.weight", shapes[f"{base.spec.embedding.name}.tokens.weight"])  # a tied head has the embedding's
    if change.shape != (shape[::-1] if change.embedding else shape):
        raise OrditoError(f"the change of {path!r} is of {change.shape}, but the base's weight is of {shape}")


def weight_of(module: nn.Module) -> Tensor:
    """The weight of a linear map, a table or a head; of a tied head, that of the embedding."""
    weight = module.tied_to[0].weight if isinstance(module, Head) and module.weight is None else module.weight
    assert isinstance(weight, Tensor)
    return weight


def _attach(base: Transformer, path: str, *maps: LowRankMap) -> None:
    module: Any = base.get_submodule(path)
    module.adapters = maps


def _swap_parameter(base: Transformer, path: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """Replace a parameter of the base, and return the previous one."""
    module, _, name = path.rpartition(".")
    owner = base.get_submodule(module)
    previous: nn.Parameter | None = getattr(owner, name)
    setattr(owner, name, parameter)
    return previous


def _set_nested(tree: nn.Module, path: str, leaf: nn.Module | nn.Parameter) -> None:
    """Set a module or parameter at a dotted path below `tree`, adding the modules on the way."""
    *branches, last = path.split(".")
    for branch in branches:
        if not hasattr(tree, branch):
            tree.add_module(branch, nn.Module())
        tree = tree.get_submodule(branch)
    setattr(tree, last, leaf)


def _parameter(array: np.ndarray, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.tensor(array, dtype=dtype))
