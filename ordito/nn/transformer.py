"""A spec as a PyTorch module: the readable reference, for training, for GPUs, and for other readers to be held against."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ordito import spec
from ordito.errors import ContextError, SpecError
from ordito.nn.attention import Attention, LatentAttention
from ordito.nn.cache import Cache
from ordito.nn.feedforward import FeedForward, MixtureOfExperts
from ordito.nn.norm import Dense, Norm
from ordito.nn.step import PADDING, Step


class Table(nn.Embedding):
    """Rows of vectors whose values are set later."""

    def reset_parameters(self) -> None:
        """Nothing: values that are about to be replaced cost time."""


class Embedding(nn.Module):
    """`spec.Embedding`."""

    def __init__(self, block: spec.Embedding) -> None:
        super().__init__()
        self.block = b = block
        self.tokens = Table(b.vocab_size, b.d_model)
        self.positions = Table(b.n_positions, b.d_model) if b.n_positions else None
        self.types = Table(b.n_types, b.d_model) if b.n_types else None

    def forward(self, ids_BT: Tensor, step: Step) -> Tensor:
        """(B, T) -> (B, T, D)."""
        x_BTD = self.tokens(ids_BT)
        if self.block.scale != 1.0:
            x_BTD = x_BTD * torch.tensor(self.block.scale, dtype=x_BTD.dtype)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(step.q_positions_BT.clamp(min=0))
        if self.types is not None:
            x_BTD = x_BTD + self.types.weight[0]
        return x_BTD


class Head(nn.Module):
    """`spec.Head`. A tied head is lent the embedding's weight by `Transformer`, so that it is one parameter under one name."""

    def __init__(self, block: spec.Head) -> None:
        super().__init__()
        self.block = b = block
        self.weight = None if b.tied else nn.Parameter(torch.empty(b.vocab_size, b.d_model))
        self.bias = nn.Parameter(torch.empty(b.vocab_size)) if b.bias else None
        self.lender: list[nn.Embedding] = []  # a list, so that the embedding is not registered a second time

    def forward(self, hidden_BTD: Tensor, step: Step | None = None) -> Tensor:
        """(..., D) -> (..., V)."""
        weight = self.lender[0].weight if self.weight is None else self.weight
        logits = nn.functional.linear(hidden_BTD, weight, self.bias)
        cap = self.block.softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)


MODULES: dict[type[spec.Block], type[nn.Module]] = {
    spec.Attention: Attention,
    spec.Dense: Dense,
    spec.Embedding: Embedding,
    spec.FeedForward: FeedForward,
    spec.Head: Head,
    spec.LatentAttention: LatentAttention,
    spec.MixtureOfExperts: MixtureOfExperts,
    spec.Norm: Norm,
}
"""Leaf block of the spec -> its module."""


class Tree(nn.Module):
    """A block and everything below it. Leaves are submodules under their own names; combinators are read as they stand."""

    def __init__(self, block: spec.Block) -> None:
        super().__init__()
        self.block = block
        self._grow(block)

    def _grow(self, block: spec.Block) -> None:
        match block:
            case spec.Chain() | spec.Sum():
                for part in block.parts:
                    self._grow(part)
            case spec.Residual():
                self._grow(block.inner)
            case spec.Stack():
                self.add_module(block.name, nn.ModuleList(Tree(layer) for layer in block.layers))
            case _:
                if type(block) not in MODULES:
                    raise SpecError(f"PyTorch has no reading of {type(block).__name__}")
                self.add_module(block.name, MODULES[type(block)](block))  # type: ignore[attr-defined]

    def forward(self, x: Tensor, step: Step) -> Tensor:
        """Token ids (B, T) or hidden states (B, T, D) through the whole tree."""
        return self._run(self.block, x, step)

    def _run(self, block: Any, x: Tensor, step: Step | None) -> Tensor:
        if isinstance(block, spec.Chain):
            for part in block.parts:
                x = self._run(part, x, step)
            return x
        if isinstance(block, spec.Residual):
            return x + self._run(block.inner, x, step)
        if isinstance(block, spec.Sum):
            total = self._run(block.parts[0], x, step)
            for part in block.parts[1:]:
                total = total + self._run(part, x, step)
            return total
        if isinstance(block, spec.Stack):
            for layer in getattr(self, block.name):
                x = layer(x, step)
            return x
        return getattr(self, block.name)(x, step)


class Transformer(Tree):
    """A whole model. The names in its `state_dict` are exactly those of `spec.tensors()`.

    Token ids are (B, T), int64. `valid` (B, T), bool, is false where a row is padded, on either side; without it every
    token counts. With a `cache` the tokens follow those that it holds.
    """

    def __init__(self, model: spec.Spec) -> None:
        super().__init__(model.body)
        self.spec = model
        for block in (model.head, model.pooler):
            if block is not None:
                self._grow(block)
        for head in (m for m in self.modules() if isinstance(m, Head)):
            head.lender.append(self.get_submodule(model.embedding.name).tokens)  # type: ignore[arg-type]
        self.attentions = [m for m in self.modules() if isinstance(m, (Attention, LatentAttention))]
        for slot, attention in enumerate(self.attentions):
            attention.slot = slot
        self.stretches = any(leaf.rope and leaf.rope.depends_on_length for _, leaf in model.attentions)
        if not next(self.parameters()).is_meta:
            self.initialise()

    def initialise(self, std: float = 0.02) -> None:
        """Random weights to train from: matrices N(0, std^2), vectors zero, norms neutral (GPT-2's choice).

        On the meta device nothing is set: the module then waits for a checkpoint's tensors.
        """
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.zeros_(parameter)
        for module in self.modules():
            if isinstance(module, Norm):
                module.initialise()

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """An empty cache for `capacity` tokens of `batch` sequences."""
        shapes = [attention.cache_shapes for attention in self.attentions]
        weight = next(self.parameters())
        return Cache(shapes, batch, capacity, weight.dtype, weight.device)

    def hidden(self, ids_BT: Tensor, *, valid: Tensor | None = None, cache: Cache | None = None) -> Tensor:
        """Hidden states (B, T, D), after the last norm where there is one. Rows at padded places mean nothing."""
        return self._run(self.block, ids_BT, self._step(ids_BT, valid, cache))

    def project(self, hidden_BTD: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D). Raises `SpecError` if the model has no head."""
        if self.spec.head is None:
            raise SpecError(f"this {self.spec.architecture} model has no language-model head: it gives hidden states only")
        return self._run(self.spec.head, hidden_BTD, None)  # nothing in a head looks at the step

    def pool(self, hidden_BTD: Tensor) -> Tensor:
        """BERT's pooled output (B, D): the pooler's map of the first token. Raises `SpecError` if there is none."""
        if self.spec.pooler is None:
            raise SpecError(f"this {self.spec.architecture} model has no pooler")
        return self._run(self.spec.pooler, hidden_BTD[:, 0], None)

    def forward(self, ids_BT: Tensor, *, valid: Tensor | None = None, cache: Cache | None = None) -> Tensor:  # type: ignore[override]
        """Logits (B, T, V)."""
        return self.project(self.hidden(ids_BT, valid=valid, cache=cache))

    def _step(self, ids_BT: Tensor, valid: Tensor | None, cache: Cache | None) -> Step:
        batch, new = ids_BT.shape
        past = cache.length if cache is not None else 0
        if valid is None and (cache is None or not cache.padded):
            positions_BT = torch.arange(past, past + new, device=ids_BT.device).expand(batch, new)
            length = past + new
        else:
            valid = torch.ones_like(ids_BT, dtype=torch.bool) if valid is None else valid
            seen_B1 = cache.counts()[:, None] if cache is not None else 0
            positions_BT = torch.where(valid, valid.long().cumsum(dim=1) - 1 + seen_B1, PADDING)
            # Only ropes that stretch need the longest row, and asking for it makes the device wait.
            length = int(positions_BT.max()) + 1 if self.stretches else past + new
        if self.spec.embedding.n_positions and length > self.spec.embedding.n_positions:
            raise ContextError(
                f"got {length} tokens, but the model has {self.spec.embedding.n_positions} positions: shorten it"
            )
        keys_BS = positions_BT if cache is None else cache.extend(positions_BT, padded=valid is not None)
        weight = next(self.parameters())
        return Step(positions_BT, keys_BS, length, weight.dtype, cache)
