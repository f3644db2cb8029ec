"""Adapters beside a frozen transformer: low-rank maps that are added to linear maps as they compute (LoRA, DoRA).

The transformer keeps its modules, its tensors and their names. A linear map that is adapted knows what lies beside it
(`Linear.beside`); `Adapters` holds the maps, several of one transformer by name, and says which of them are on.
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
from ordito.nn.norm import Beside, Linear, Table
from ordito.nn.transformer import Head, Transformer


class LowRankMap(nn.Module):
    """`LowRank` beside a linear map: a (R, in), b (out, R), magnitude (out,); beside E stacked maps each with an axis E before.

    In training a share `dropout` of what the maps of low rank see is dropped; ids of tokens are not.
    """

    def __init__(self, change: LowRank, dtype: torch.dtype, dropout: float = 0.0) -> None:
        super().__init__()
        self.scaling, self.embedding, self.dropout = change.scaling, change.embedding, dropout
        self.a, self.b = _parameter(change.a, dtype), _parameter(change.b, dtype)
        self.magnitude = None if change.magnitude is None else _parameter(change.magnitude, dtype)

    def forward(self, x: Tensor, y: Tensor, weight: Callable[[], Tensor], bias: Tensor | None = None) -> Tensor:
        """W' x + bias, (n, out), of y = W x + bias, in whose memory it is made; an embedding's x are ids (n,), its weight is W
        transposed."""
        return self._changed(self.a, self.b, self.magnitude, x, y, weight, bias)

    def each(self) -> list[Beside]:
        """What lies beside each of E stacked maps."""
        magnitudes = [None] * len(self.a) if self.magnitude is None else self.magnitude.unbind()
        parts = zip(self.a.unbind(), self.b.unbind(), magnitudes, strict=True)
        return [partial(self._changed, a, b, magnitude) for a, b, magnitude in parts]

    def _changed(
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
        seen = F.dropout(x, self.dropout) if drops else x
        low = (F.embedding(seen, a.T) if self.embedding else F.linear(seen, a)).to(y.dtype)
        if magnitude is None:
            return y.addmm_(low, b.T.to(y.dtype), alpha=self.scaling)
        w = weight()
        gain = (magnitude / self._norms(a, b, w)).to(y.dtype)
        if drops:
            # As in PEFT: W sees all of x once, and in what the gain adds it sees what B A sees.
            return y + torch.addmm((gain - 1) * F.linear(seen, w), low, (gain[:, None] * b).T, alpha=self.scaling)
        y.addmm_(low, b.T.to(y.dtype), alpha=self.scaling)
        return gain * y if bias is None else torch.addcmul((1 - gain) * bias, y, gain)

    @torch.no_grad()
    def _norms(self, a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
        """Of the rows of W + s B A, (out,): |w|^2 + 2 s b A w + s^2 b A A^T b^T of a row w, which never makes the sum itself.

        They count as constants when gradients are taken, as in DoRA's paper (arXiv:2402.09353, section 4.3).
        """
        w, s = weight.T if self.embedding else weight, self.scaling
        own = torch.linalg.vector_norm(w, dim=1, dtype=torch.float32).square()
        cross = ((w @ a.T) * b).sum(dim=1, dtype=torch.float32)
        added = ((b @ (a @ a.T)) * b).sum(dim=1, dtype=torch.float32)
        return (own + 2 * s * cross + s * s * added).clamp(min=0).sqrt().to(b.dtype)

    def change(self) -> LowRank:
        """What it is now, as arrays."""
        a, b = floats_of(self.a), floats_of(self.b)
        return LowRank(a, b, self.scaling, None if self.magnitude is None else floats_of(self.magnitude), self.embedding)


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

    def add(
        self,
        name: str,
        changes: Mapping[str, LowRank],
        saved: Mapping[str, np.ndarray] | None = None,
        dropout: float = 0.0,
    ) -> None:
        """Add an adapter, switched off: `changes` by canonical module, `saved` by canonical tensor.

        One array that is saved under two names is one parameter (a tied embedding and head). Raises `OrditoError` if the name
        is taken or cannot be one, or if a module cannot have a map beside it.
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
            _plant(tree, path, low_rank)
        for path, parameter in self._saved[name].items():
            _plant(tree, path, parameter)
        table = f"{base.spec.embedding.name}.tokens.weight"
        if table in self._saved[name] and base.spec.tied:
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

    def saved(self, name: str) -> dict[str, np.ndarray]:
        """The tensors of an adapter that take the place of the base's, as they are now, by canonical name."""
        once = {id(parameter): floats_of(parameter) for parameter in self._saved[name].values()}
        return {path: once[id(parameter)] for path, parameter in self._saved[name].items()}

    def merged(self, name: str) -> dict[str, Tensor]:
        """The weights of the base that an adapter changes, with its changes, in fp32, by canonical name. The base stays.

        A head that was tied has a weight of its own then, `head.weight`, if it or the embedding is changed.
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
        """While this lasts, the adapter that is on is merged into the base, which is faster; then all is as it was, to the bit.

        Maps beside NF4 stay beside it.
        """
        base, name = self.transformer[0], self.active
        assert name is not None, "no adapter is on"
        merged = {path: tensor for path, tensor in self.merged(name).items() if path not in self._saved[name]}
        before: dict[str, nn.Parameter | None] = {}
        for path, tensor in merged.items():
            module = path.removesuffix(".weight")
            if not isinstance(base.get_submodule(module), (Nf4Linear, Nf4StackedLinear)):
                dtype = next(base.parameters()).dtype
                before[path] = _put(base, path, nn.Parameter(tensor.to(dtype), requires_grad=False))
                _lay(base, module)
        try:
            yield
        finally:
            for path, parameter in before.items():
                module = path.removesuffix(".weight")
                _put(base, path, parameter)
                _lay(base, module, *([self._maps[name][module]] if module in self._maps[name] else []))


def _check_fits(base: Transformer, path: str, change: LowRank) -> None:
    modules = dict(base.named_modules())
    module = modules.get(path)
    if not isinstance(module, (Linear, StackedLinear, Table, Head)) or isinstance(module, Router):
        kind = "no such module" if module is None else f"a {type(module).__name__}"
        raise OrditoError(f"nothing can lie beside {path!r}, which is {kind}{did_you_mean(path, modules)}; merge the adapter")
    shapes = base.spec.tensors()
    shape = shapes.get(f"{path}.weight", shapes[f"{base.spec.embedding.name}.tokens.weight"])  # a tied head's
    if change.shape != (shape[::-1] if change.embedding else shape):
        raise OrditoError(f"the change of {path!r} is of {change.shape}, but the base's weight is of {shape}")


def weight_of(module: nn.Module) -> Tensor:
    """Of a map or a table; of a tied head, the one that it is lent."""
    weight = module.lender[0].weight if isinstance(module, Head) and module.weight is None else module.weight
    assert isinstance(weight, Tensor)
    return weight


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
