"""`Spec`: the whole architecture of a model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from ordito.errors import OrditoError, SpecError
from ordito.spec.attention import Attention, LatentAttention
from ordito.spec.blocks import Dense, Embedding, Head, Norm
from ordito.spec.combinators import Chain, Parts, Residual, Stack
from ordito.spec.node import Block, Node, Shape, Size, from_dict


@dataclass(frozen=True, kw_only=True)
class Pooling(Node):
    """How the hidden states of a text become its embedding: the first token's (`cls`), their mean, or the last token's.

    `dense` layers follow (EmbeddingGemma has two); `normalise` then scales the embedding to length 1. `max_tokens` is the
    length of the longest texts in training.
    """

    kind: Literal["cls", "mean", "last"]
    dense: tuple[Dense, ...] = ()
    normalise: bool = False
    max_tokens: Size | None = None


@dataclass(frozen=True, kw_only=True)
class NextToken(Block):
    """A module for multi-token prediction (MTP), which predicts one token further ahead (DeepSeek-V3, arXiv:2412.19437,
    section 2.2).

    h'_i = norm(layer(W [embedding_norm(e(t_{i+1})) ‖ hidden_norm(h_i)])), from the hidden state of token i and the embedding
    of the next one; the model's own head on h'_i predicts token i + 2. Names of tensors are relative to the module's path in
    `Spec.ahead`.
    """

    d_model: Size
    embedding_norm: Norm
    hidden_norm: Norm
    join: Dense
    layer: Block
    norm: Norm

    @property
    def parts(self) -> tuple[Block, ...]:
        """All blocks of the module, in the order in which they run."""
        return (self.embedding_norm, self.hidden_norm, self.join, self.layer, self.norm)

    def check(self) -> None:
        """Raise `SpecError` if the parts do not fit d_model."""
        if (self.join.d_in, self.join.d_out) != (2 * self.d_model, self.d_model):
            raise SpecError(f"NextToken.join: got {self.join.d_in} -> {self.join.d_out}, expected 2 d_model -> d_model")
        for part in (self.embedding_norm, self.hidden_norm, self.layer, self.norm):
            part.width_after(self.d_model)

    def tensors(self) -> Iterator[tuple[str, Shape]]:
        """The tensors of all parts."""
        for part in self.parts:
            yield from part.tensors()

    def width_after(self, width: int | None) -> int | None:
        """`d_model`."""
        return self.d_model


@dataclass(frozen=True, kw_only=True)
class Spec(Node):
    """An architecture: a tree of blocks from token ids to hidden states, and the blocks that read these.

    - `body`: ids (B, T) to hidden states (B, T, D), the final norm included.
    - `head`: hidden states to logits (B, T, V).
    - `pooler`: BERT's dense layer on the first token's state; `pooling`: hidden states to one embedding of the text.
    - `encoder`: the embedded tokens of the source, (B, S, D), to the states that the body's cross-attention reads (T5).
    - `ahead`: modules for multi-token prediction, without which the model works as well.
    - `context`: the longest sequence, in tokens, that the model is made for.
    - `architecture`: the label of this architecture in published files (`model_type` in config.json). Only import and
      export use it.
    """

    architecture: str
    context: Size
    body: Block
    head: Block | None = None
    pooler: Dense | None = None
    pooling: Pooling | None = None
    encoder: Block | None = None
    ahead: tuple[NextToken, ...] = ()

    def check(self) -> None:
        """Raise `SpecError` if widths do not match, two tensors have one name, or there is no embedding, or encoder where one
        is read."""
        width = self.body.width_after(None)
        for reader in (self.head, self.pooler, self.encoder, *self.ahead):
            if reader is not None:
                reader.width_after(width)
        for dense in self.pooling.dense if self.pooling else ():
            width = dense.width_after(width)
        for name, times in Counter(name for name, _ in self._named_tensors()).items():
            if times > 1:
                raise SpecError(
                    f"the tensor name {name!r} stands for {times} tensors, expected one: give blocks their own names"
                )
        if not any(isinstance(leaf, Embedding) for _, leaf in self.leaves()):
            raise SpecError("a model needs an Embedding as its first block, got none")
        crossing = any(isinstance(leaf, Attention) and leaf.cross for _, leaf in self.attentions)
        if crossing != (self.encoder is not None):
            raise SpecError("cross-attention and an encoder belong together, got one without the other")

    def tensors(self) -> dict[str, Shape]:
        """Every tensor of the model: canonical name to shape, in the order of the tree. A tied head is not listed."""
        return dict(self._tensors)

    @cached_property
    def _tensors(self) -> dict[str, Shape]:
        return dict(self._named_tensors())

    @property
    def _parts(self) -> list[tuple[str, Block]]:
        """All parts with tensors, each with the prefix of their names."""
        dense = self.pooling.dense if self.pooling else ()
        whole = [("", part) for part in (self.body, self.encoder, self.head, self.pooler, *dense) if part is not None]
        return whole + [(f"ahead.{number}.", part) for number, part in enumerate(self.ahead)]

    def _named_tensors(self) -> Iterator[tuple[str, Shape]]:
        for prefix, part in self._parts:
            yield from ((prefix + name, shape) for name, shape in part.tensors())

    def leaves(self) -> Iterator[tuple[str, Block]]:
        """Every leaf block with its canonical path, in the order in which the model runs them."""
        return iter(self._leaves)

    @cached_property
    def _leaves(self) -> tuple[tuple[str, Block], ...]:
        return tuple(leaf for prefix, part in self._parts for leaf in leaves_of(part, prefix))

    @cached_property
    def embedding(self) -> Embedding:
        """The token embedding."""
        return next(leaf for _, leaf in self.leaves() if isinstance(leaf, Embedding))

    @property
    def lm_head(self) -> Head | None:
        """The language-model head: `head`, or its last part (in BERT it follows a dense layer and a norm)."""
        last = self.head.parts[-1] if isinstance(self.head, Chain) else self.head
        return last if isinstance(last, Head) else None

    @property
    def tied(self) -> bool:
        """Whether the language-model head shares its weight with the token embedding."""
        return self.lm_head is not None and self.lm_head.tied

    @property
    def d_model(self) -> int:
        """The width of the hidden states."""
        return self.embedding.d_model

    @property
    def vocab_size(self) -> int:
        """Rows of the token embedding."""
        return self.embedding.vocab_size

    @property
    def n_layers(self) -> int:
        """Layers in the stacks of the body."""
        return sum(len(stack.layers) for stack in stacks_of(self.body))

    @property
    def attentions(self) -> list[tuple[str, Attention | LatentAttention]]:
        """Path and block of every attention of the body, in order: those with a KV cache."""
        return [(path, leaf) for path, leaf in leaves_of(self.body, "") if isinstance(leaf, (Attention, LatentAttention))]

    @property
    def generates(self) -> bool:
        """Whether the model can continue a text: it has a head, and all of its self-attention is causal."""
        causal = all(leaf.causal or leaf.cross for _, leaf in self.attentions if isinstance(leaf, Attention))
        return self.head is not None and causal

    def to_json(self, indent: int | None = None) -> str:
        """The spec as JSON; `Spec.from_json` reads it back to an equal spec."""
        return json.dumps(self.to_dict(), indent=indent)

    @staticmethod
    def from_json(text: str) -> Spec:
        """The inverse of `to_json`. Raises `SpecError` for anything that is not a spec."""
        try:
            data: Any = json.loads(text)
            spec = from_dict(data)
        except (json.JSONDecodeError, RecursionError) as error:
            raise SpecError(f"not a spec in JSON: {error}") from None
        if not isinstance(spec, Spec):
            raise SpecError(f"got a {type(spec).__name__} in JSON, expected a Spec")
        return spec


def expect_spec(value: object, asked: str) -> None:
    """Raise `OrditoError`, on behalf of the function `asked`, unless `value` is a `Spec`: it is often a model's name."""
    if not isinstance(value, Spec):
        ways = "ordito.outline(name).spec, or that of a loaded model"
        raise OrditoError(f"{asked}: got {type(value).__name__}, expected a Spec: {ways}")


def with_vocabulary(spec: Spec, size: int, used: int) -> Spec:
    """The spec with `size` rows in its embedding and head, of which the first `used` are tokens and the others padding."""
    head = spec.head if spec.head is None else _resized(spec.head, size, used)
    return replace(spec, body=_resized(spec.body, size, used), head=head)


def _resized(block: Block, size: int, used: int) -> Block:
    match block:
        case Embedding():
            return replace(block, vocab_size=size)
        case Head():
            return replace(block, vocab_size=size, unused=tuple(id for id in block.unused if id >= used))
        case Chain():
            return Chain(*(_resized(part, size, used) for part in block.parts))
    return block


def leaves_of(block: Block, prefix: str = "") -> Iterator[tuple[str, Block]]:
    """Every leaf of one part of a spec with its path, prefixed with `prefix`, in the order in which they run."""
    match block:
        case Stack():
            for number, layer in enumerate(block.layers):
                yield from leaves_of(layer, f"{prefix}{block.name}.{number}.")
        case Residual():
            yield from leaves_of(block.inner, prefix)
        case Parts() | NextToken():
            for part in block.parts:
                yield from leaves_of(part, prefix)
        case _:
            yield prefix + getattr(block, "name"), block  # noqa: B009 - every leaf has a name, combinators have none


def stacks_of(block: Block) -> Iterator[Stack]:
    """Every stack of layers in one part of a spec, in order."""
    match block:
        case Stack():
            yield block
        case Residual():
            yield from stacks_of(block.inner)
        case Parts():
            for part in block.parts:
                yield from stacks_of(part)
