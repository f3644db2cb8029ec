"""Adapters beside a frozen transformer: low-rank maps that are added to linear maps as they compute (LoRA, DoRA).

The transformer keeps its modules, its tensors and their names. A linear map that is adapted knows what lies beside it
(`Linear.beside`); `Adapters` holds the maps, several of one transformer by name, and says which of them are on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ordito.checkpoint.adapter import LowRank
from ordito.errors import OrditoError, did_you_mean
from ordito.nn.feedforward import Router
from ordito.nn.norm import Linear, Table
from ordito.nn.transformer import Head, Transformer


class LowRankMap(nn.Module):
    """`LowRank` beside a linear map: a (R, in), b (out, R), magnitude (out,)."""

    def __init__(self, change: LowRank, dtype: torch.dtype) -> None:
        super().__init__()
        self.scaling, self.embedding = change.scaling, change.embedding
        self.a, self.b = _parameter(change.a, dtype), _parameter(change.b, dtype)
        self.magnitude = None if change.magnitude is None else _parameter(change.magnitude, dtype)

    def forward(self, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """W' x + bias, (..., out), of y = W x + bias; an embedding's x are ids (...), its weight is W transposed.

        The norms of DoRA count as constants when gradients are taken, as in its paper (section 4.3).
        """
        low = F.embedding(x, self.a.T) if self.embedding else F.linear(x, self.a)
        y = y + self.scaling * F.linear(low, self.b)
        if self.magnitude is None:
            return y
        with torch.no_grad():
            norm = ((weight.T if self.embedding else weight) + self.scaling * (self.b @ self.a)).norm(dim=1)
        gain = self.magnitude / norm
        return gain * y if bias is None else gain * (y - bias) + bias

    def change(self) -> LowRank:
        """What it is now, as arrays."""
        a, b = _array(self.a), _array(self.b)
        return LowRank(a, b, self.scaling, None if self.magnitude is None else _array(self.magnitude), self.embedding)


class Adapters(nn.Module):
    """The adapters of one transformer: `add` them by name, then `use` one, or none.

    Parameters are named by adapter and canonical module: `NAME.layers.0.attention.q.a`. What takes the place of the base's
    own tensors (`saved`) is exchanged when the adapter is switched on, and back when it is switched off.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.transformer = [transformer.requires_grad_(False)]  # a list, so that the base's parameters are not ours
        self.active: str | None = None
        self._maps: dict[str, dict[str, LowRankMap]] = {}
        self._saved: dict[str, dict[str, nn.Parameter]] = {}
        self._base: dict[str, nn.Parameter | None] = {}

    @property
    def names(self) -> list[str]:
        """Of the adapters that were added."""
        return list(self._maps)

    def add(self, name: str, changes: Mapping[str, LowRank], saved: Mapping[str, np.ndarray] | None = None) -> None:
        """Add an adapter, switched off: `changes` by canonical module, `saved` by canonical tensor.

        Raises `OrditoError` if the name is taken or cannot be one, or if a module cannot have a map beside it.
        """
        if name in self._maps or not name.isidentifier() or hasattr(self, name):
            raise OrditoError(f"{name!r} cannot be the name of another adapter, expected a word that is not {self.names}")
        base = self.transformer[0]
        dtype = next(base.parameters()).dtype
        for path, change in changes.items():
            _check_fits(base, path, change)
        if unknown := sorted({*(saved or ())} - base.spec.tensors().keys() - {"head.weight"}):
            raise OrditoError(f"{unknown[0]!r} is no tensor of the base{did_you_mean(unknown[0], base.spec.tensors())}")
        self._maps[name] = {path: LowRankMap(change, dtype) for path, change in changes.items()}
        self._saved[name] = {path: _parameter(array, dtype) for path, array in (saved or {}).items()}
        self.add_module(name, tree := nn.Module())
        for path, low_rank in self._maps[name].items():
            _plant(tree, path, low_rank)
        for path, parameter in self._saved[name].items():
            _plant(tree, path, parameter)
        table = f"{base.spec.embedding.name}.tokens.weight"
        if table in self._saved[name] and _is_tied(base):
            # The head shares the base's table, not the adapter's.
            self._saved[name].setdefault("head.weight", base.get_parameter(table))

    def use(self, name: str | None) -> None:
        """Switch to the adapter of this name; None switches to the base as it is. Raises `OrditoError` if there is none."""
        if name is not None and name not in self._maps:
            raise OrditoError(f"there is no adapter {name!r}{did_you_mean(name, self._maps)}; there are {self.names}")
        base = self.transformer[0]
        if self.active is not None:
            for path in self._maps[self.active]:
                _lay(base, path)
            for path, parameter in self._base.items():
                _put(base, path, parameter)
            self._base = {}
        if name is not None:
            for path, low_rank in self._maps[name].items():
                _lay(base, path, low_rank)
            for path, parameter in self._saved[name].items():
                self._base[path] = _put(base, path, parameter)
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """`use` for a while."""
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def changes(self, name: str) -> dict[str, LowRank]:
        """The changes of an adapter as they are now, by canonical module."""
        return {path: low_rank.change() for path, low_rank in self._maps[name].items()}


def _check_fits(base: Transformer, path: str, change: LowRank) -> None:
    modules = dict(base.named_modules())
    module = modules.get(path)
    if not isinstance(module, (Linear, Table, Head)) or isinstance(module, Router):
        kind = "no such module" if module is None else f"a {type(module).__name__}"
        raise OrditoError(f"nothing can lie beside {path!r}, which is {kind}{did_you_mean(path, modules)}; merge the adapter")
    weight = module.lender[0].weight if isinstance(module, Head) and module.weight is None else module.weight
    assert weight is not None
    if change.shape != (tuple(weight.shape[::-1]) if change.embedding else tuple(weight.shape)):
        raise OrditoError(f"the change of {path!r} is of {change.shape}, but the base's weight is of {tuple(weight.shape)}")


def _is_tied(base: Transformer) -> bool:
    head = getattr(base, "head", None)
    return isinstance(head, Head) and head.weight is None


def _lay(base: Transformer, path: str, *maps: LowRankMap) -> None:
    module: Any = base.get_submodule(path)
    module.beside = maps


def _put(base: Transformer, path: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
    """Exchange a parameter of the base for another, and return the one that was there."""
    module, _, name = path.rpartition(".")
    owner = base.get_submodule(module)
    before: nn.Parameter | None = getattr(owner, name)
    setattr(owner, name, parameter)
    return before


def _plant(tree: nn.Module, path: str, leaf: nn.Module | nn.Parameter) -> None:
    """Give a module or a parameter its place in a tree of modules."""
    *branches, last = path.split(".")
    for branch in branches:
        if not hasattr(tree, branch):
            tree.add_module(branch, nn.Module())
        tree = tree.get_submodule(branch)
    setattr(tree, last, leaf)


def _parameter(array: np.ndarray, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.tensor(array, dtype=dtype))


def _array(tensor: Tensor) -> np.ndarray:
    values: np.ndarray = tensor.detach().float().cpu().numpy()
    return values
