"""A spec as a PyTorch module: the readable reference, for training, for GPUs, and to test other backends against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ordito import spec
from ordito.errors import ContextError, SpecError
from ordito.nn.attention import Attention, LatentAttention
from ordito.nn.cache import Cache
from ordito.nn.feedforward import FeedForward, MixtureOfExperts
from ordito.nn.norm import AdapterFunction, Dense, Norm, Table
from ordito.nn.products import linear
from ordito.nn.step import PADDING, Step


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
            x_BTD = x_BTD + self.positions(step.q_positions_BT.clamp(min=0) + self.block.first_position)
        if self.types is not None:
            x_BTD = x_BTD + self.types.weight[0]
        return x_BTD


class Head(nn.Module):
    """`spec.Head`. A tied head uses the embedding's weight (`tied_to`), so that it is one parameter under one name."""

    adapters: tuple[AdapterFunction, ...] = ()

    def __init__(self, block: spec.Head) -> None:
        super().__init__()
        self.block = b = block
        self.weight = None if b.tied else nn.Parameter(torch.empty(b.vocab_size, b.d_model))
        self.bias = nn.Parameter(torch.empty(b.vocab_size)) if b.bias else None
        self.tied_to: list[nn.Embedding] = []  # set by `Transformer`; a list, so that the embedding is not registered twice

    def forward(self, hidden_BTD: Tensor, step: Step | None = None) -> Tensor:
        """(..., D) -> (..., V)."""
        weight = self.tied_to[0].weight if self.weight is None else self.weight
        scaled = hidden_BTD if self.block.scale == 1.0 else hidden_BTD * self.block.scale
        rows_nD = scaled.reshape(-1, scaled.shape[-1])
        logits_nV = linear(rows_nD, weight, self.bias)
        for adapt in self.adapters:
            logits_nV = adapt(rows_nD, logits_nV, lambda: weight, self.bias)
        logits = logits_nV.view(*scaled.shape[:-1], len(weight))
        cap = self.block.softcap
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        if self.block.unused:
            logits = logits.index_fill(-1, torch.tensor(self.block.unused, device=logits.device), float("-inf"))
        return logits


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
    """A block and all blocks within it. Leaf blocks are submodules, under their own names; combinators are interpreted.

    With `recompute`, the layers of a stack use activation checkpointing: each saves only its input, and is computed again in
    the backward pass.
    """

    recompute = False

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
                    raise SpecError(f"there is no PyTorch module for the block {type(block).__name__}")
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
                if self.recompute and torch.is_grad_enabled():
                    x = checkpoint(layer, x, step, use_reentrant=False)
                else:
                    x = layer(x, step)
            return x
        return getattr(self, block.name)(x, step)


@dataclass(frozen=True)
class Source:
    """An encoder's hidden states (B, S, D), and a mask (B, S), bool, false at padding (None: no padding)."""

    states_BSD: Tensor
    valid_BS: Tensor | None = None


class NextToken(nn.Module):
    """`spec.NextToken`: a module of multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2)."""

    def __init__(self, block: spec.NextToken) -> None:
        super().__init__()
        self.tree = [Tree(part) for part in block.parts]  # in a list: the state dict has the names of the parts only
        for tree in self.tree:
            for name, module in tree.named_children():
                self.add_module(name, module)

    def forward(self, embedded_BTD: Tensor, hidden_BTD: Tensor, step: Step) -> Tensor:
        """Hidden states (B, T, D) from those of the previous depth and the embeddings of the next tokens, both (B, T, D)."""
        embedding_norm, hidden_norm, join, layer, norm = self.tree
        both = torch.cat((embedding_norm(embedded_BTD, step), hidden_norm(hidden_BTD, step)), dim=-1)
        return norm(layer(join(both, step), step), step)


class Transformer(Tree):
    """A whole model. The names in its `state_dict` are exactly those of `spec.tensors()`.

    Token ids are (B, T), int64. `valid` (B, T), bool, is the attention mask: false at padding, on either side; None means no
    padding. With a `cache`, the tokens follow those that it holds. A model with an encoder needs a `source`, which `encode`
    returns, unless its cache has one already. `documents` (B, T) numbers the texts of packed rows, which do not attend to each
    other; -1 is padding.
    """

    def __init__(self, model: spec.Spec) -> None:
        super().__init__(model.body)
        self.spec = model
        self.attentions = [m for m in self.modules() if isinstance(m, (Attention, LatentAttention))]
        for slot, attention in enumerate(self.attentions):
            attention.slot = slot
        for block in (model.encoder, model.head, model.pooler, *(model.pooling.dense if model.pooling else ())):
            if block is not None:
                self._grow(block)
        if model.ahead:
            self.ahead = nn.ModuleList(NextToken(block) for block in model.ahead)
        for head in (m for m in self.modules() if isinstance(m, Head)):
            head.tied_to.append(self.get_submodule(model.embedding.name).tokens)  # type: ignore[arg-type]
        self.rope_depends_on_length = any(leaf.rope and leaf.rope.depends_on_length for _, leaf in model.attentions)
        if not next(self.parameters()).is_meta:
            self.initialise()

    def initialise(self, std: float = 0.02) -> None:
        """Random weights to train from: matrices N(0, std^2), vectors 0, scales of norms 1, as GPT-2.

        Not called on the meta device, where a checkpoint's tensors are loaded instead.
        """
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=std)
            else:
                nn.init.zeros_(parameter)
        for module in self.modules():
            if isinstance(module, Norm):
                module.initialise()

    def new_cache(self, batch: int, capacity: int, chunk: int | None = None) -> Cache:
        """An empty cache for `capacity` tokens of `batch` sequences.

        With `chunk`, the most tokens that a forward pass may add, sliding-window layers keep little more than their windows;
        such a cache cannot hold padded sequences.
        """
        shapes = [attention.cache_shapes for attention in self.attentions]
        spans = [] if chunk is None else [attention.block.span for attention in self.attentions]
        weight = next(self.parameters())
        return Cache(shapes, batch, capacity, weight.dtype, weight.device, spans, chunk or 1)

    def encode(self, ids_BT: Tensor, *, valid: Tensor | None = None) -> Source:
        """The encoder's hidden states (B, S, D) of a source text. Raises `SpecError` if the model has no encoder."""
        if self.spec.encoder is None:
            raise SpecError(f"this {self.spec.architecture} model has no encoder")
        step = self._step(ids_BT, valid, None)
        embedded = getattr(self, self.spec.embedding.name)(ids_BT, step)
        return Source(self._run(self.spec.encoder, embedded, step), valid)

    def hidden(
        self,
        ids_BT: Tensor,
        *,
        valid: Tensor | None = None,
        cache: Cache | None = None,
        source: Source | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, T, D), after the final norm if there is one; at padding they are meaningless.

        Raises `SpecError` if the model has an encoder but gets no source, `ContextError` for more tokens than positions.
        """
        if self.spec.encoder is not None and source is None and not (cache and cache.source):
            raise SpecError(f"this {self.spec.architecture} model answers a source text: give it to the encoder first")
        step = self._step(ids_BT, valid, cache, source) if documents is None else self._packed(documents)
        return self._run(self.block, ids_BT, step)

    def project(self, hidden_BTD: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D). Raises `SpecError` if the model has no head."""
        if self.spec.head is None:
            raise SpecError(f"this {self.spec.architecture} model has no language-model head: it gives hidden states only")
        return self._run(self.spec.head, hidden_BTD, None)  # a head does not use the step

    def logit_lens(self, stream_BTD: Tensor) -> Tensor:
        """Logits (..., V) of residual-stream states (..., D) of any layer: final norm, then head (nostalgebraist, 2020).

        Raises `SpecError` if the model has no head.
        """
        parts = self.spec.body.parts if isinstance(self.spec.body, spec.Chain) else ()
        for number, part in enumerate(parts):
            if not any(isinstance(later, spec.Stack) for later in parts[number:]):
                stream_BTD = self._run(part, stream_BTD, None)
        return self.project(stream_BTD)

    def pool(self, hidden_BTD: Tensor) -> Tensor:
        """BERT's pooled output (B, D): the pooler of the first token's state. Raises `SpecError` if there is no pooler."""
        if self.spec.pooler is None:
            raise SpecError(f"this {self.spec.architecture} model has no pooler")
        return self._run(self.spec.pooler, hidden_BTD[:, 0], None)

    def transform(self, vectors_ND: Tensor) -> Tensor:
        """Pooled vectors (N, D) through the dense layers that follow the pooling, (N, D')."""
        y_ND = vectors_ND.to(next(self.parameters()).dtype)
        for dense in self.spec.pooling.dense if self.spec.pooling else ():
            y_ND = self._run(dense, y_ND, None)
        return y_ND

    def look_ahead(self, ids_BT: Tensor, hidden_BTD: Tensor) -> list[Tensor]:
        """Logits (B, T - k - 1, V) of each multi-token prediction module k = 0, 1, ..., from ids and hidden states of T tokens.

        Position i of module k predicts token i + k + 2 from the tokens up to i + k + 1.
        """
        logits, embedding = [], getattr(self, self.spec.embedding.name)
        for number, module in enumerate(getattr(self, "ahead", ())):
            following_BT = ids_BT[:, number + 1 :]
            step = self._step(following_BT, None, None)
            hidden_BTD = module(embedding(following_BT, step), hidden_BTD[:, : following_BT.shape[1]], step)
            logits.append(self.project(hidden_BTD))
        return logits

    def forward(  # type: ignore[override]
        self, ids_BT: Tensor, *, valid: Tensor | None = None, cache: Cache | None = None, source: Source | None = None
    ) -> Tensor:
        """Logits (B, T, V)."""
        return self.project(self.hidden(ids_BT, valid=valid, cache=cache, source=source))

    def _packed(self, documents_BT: Tensor) -> Step:
        """The step of packed rows: positions start at 0 again where the number of the document changes."""
        places_BT = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
        begins = torch.ones_like(documents_BT, dtype=torch.bool)
        begins[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
        first_BT = torch.where(begins, places_BT, 0).cummax(dim=1).values
        positions_BT = torch.where(documents_BT >= 0, places_BT - first_BT, PADDING)
        length = int(positions_BT.max()) + 1
        self._check_length(length)
        dtype = next(self.parameters()).dtype
        return Step(positions_BT, positions_BT, length, dtype, documents_BT=documents_BT)

    def fitting(self, length: int) -> int:
        """The most tokens of a text, at most `length`, that have positions: fewer only with learned positions."""
        embedding = self.spec.embedding
        return min(length, embedding.n_positions - embedding.first_position) if embedding.n_positions else length

    def _check_length(self, length: int) -> None:
        if length > (most := self.fitting(length)):
            raise ContextError(f"got {length} tokens, but the model has {most} positions: shorten it")

    def _step(self, ids_BT: Tensor, valid: Tensor | None, cache: Cache | None, source: Source | None = None) -> Step:
        batch, new = ids_BT.shape
        past = cache.length if cache is not None else 0
        if valid is None and (cache is None or not cache.padded):
            positions_BT = torch.arange(past, past + new, device=ids_BT.device).expand(batch, new)
            length = past + new
        else:
            valid = torch.ones_like(ids_BT, dtype=torch.bool) if valid is None else valid
            seen_B1 = cache.counts()[:, None] if cache is not None else 0
            positions_BT = torch.where(valid, valid.long().cumsum(dim=1) - 1 + seen_B1, PADDING)
            # Only ropes whose frequencies depend on the length need that of the longest row: reading it waits for the device.
            length = int(positions_BT.max()) + 1 if self.rope_depends_on_length else past + new
        self._check_length(length)
        keys_BS = positions_BT if cache is None else cache.extend(positions_BT, padded=valid is not None)
        weight = next(self.parameters())
        states, states_valid = (source.states_BSD, source.valid_BS) if source else (None, None)
        return Step(positions_BT, keys_BS, length, weight.dtype, cache, states, states_valid)
