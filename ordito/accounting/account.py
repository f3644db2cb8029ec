"""What a model is made of and what it costs, exactly, from its configuration alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

from ordito.accounting.cache import CONTEXTS, Cache, Layer, cache_of, variants
from ordito.accounting.flops import Flops
from ordito.accounting.parameters import Tensor, count, tensors
from ordito.accounting.tree import Part, Stored, tree_of
from ordito.spec import Attention, Spec, expect_spec, leaves_of


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Numbers of learned parameters: `total` (a tied head counted once), `active` for one token, and of the `embedding`.

    `ahead` are those of multi-token prediction, which are in none of the others: the model works without them.
    """

    total: int
    active: int
    embedding: int
    ahead: int


@dataclass(frozen=True)
class Account:
    """The account of one model. Bytes are those of `stored`, or, without it, two for each number."""

    spec: Spec
    stored: Mapping[str, Stored] | None = None

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor, under its canonical name."""
        return tuple(tensors(self.spec))

    @cached_property
    def parameters(self) -> Parameters:
        """The numbers of parameters."""
        own = [tensor for tensor in self.tensors if not tensor.ahead]
        return Parameters(
            total=sum(tensor.parameters for tensor in own),
            active=sum(tensor.active for tensor in own),
            embedding=sum(tensor.parameters for tensor in own if self._embeds(tensor)),
            ahead=sum(tensor.parameters for tensor in self.tensors if tensor.ahead),
        )

    @cached_property
    def tree(self) -> Part:
        """The parameters and bytes of each module, as a tree."""
        return tree_of(self.tensors, self.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return round(self.tree.nbytes)

    @cached_property
    def kv_cache(self) -> Cache:
        """The KV cache."""
        return cache_of(self.spec)

    @property
    def flops(self) -> Flops:
        """The FLOPs of the model."""
        return Flops(self.spec)

    @cached_property
    def weights_read(self) -> float:
        """Bytes of weights that decoding one token reads: of experts the chosen ones, of the embedding one row, or all of it if
        the head is tied to it.

        In an encoder-decoder this is a token of the decoder, without the encoder and the keys and values of cross-attention.
        """
        return sum(self._read(tensor) for tensor in self._own)

    def read(self, context: int) -> float:
        """Bytes that are read to decode the last token of a `context`: weights, and a 16-bit KV cache."""
        return self.weights_read + self.kv_cache.at(context)

    def read_at_once(self, tokens: int) -> float:
        """Expected bytes of weights that the prefill of so many tokens reads: each once, experts only if a token chooses them.

        Each expert is taken to be equally likely. The prefill of an encoder-decoder is that of its encoder (`Flops.prefill`).
        """
        used = self._encoding if self.spec.encoder else self._own
        shares = ((tensor, self._read(tensor) / nbytes) for tensor in used if (nbytes := self._nbytes(tensor)))
        return sum(self._nbytes(tensor) * (1 - (1 - share) ** tokens) for tensor, share in shares)

    @property
    def _own(self) -> list[Tensor]:
        """The tensors that decoding uses: not those of multi-token prediction, and not those of `_encoding`."""
        return [tensor for tensor in self.tensors if not tensor.ahead and not tensor.name.startswith(self._source_paths)]

    @property
    def _encoding(self) -> list[Tensor]:
        """The tensors that an encoder-decoder uses to read a source: the encoder, cross-attention's keys and values."""
        return [tensor for tensor in self.tensors if tensor.name.startswith(self._source_paths)]

    @cached_property
    def _source_paths(self) -> tuple[str, ...]:
        """How the names of the tensors of `_encoding` begin."""
        encoder = leaves_of(self.spec.encoder) if self.spec.encoder else ()
        crossing = (path for path, block in self.spec.attentions if isinstance(block, Attention) and block.cross)
        return (*(f"{path}." for path, _ in encoder), *(f"{path}.{which}." for path in crossing for which in "kv"))

    def _read(self, tensor: Tensor) -> float:
        nbytes = self._nbytes(tensor)
        if self._embeds(tensor) and not (self.spec.tied and tensor.name.endswith(".tokens.weight")):
            return nbytes / tensor.shape[0]
        return nbytes * (tensor.active / tensor.parameters if tensor.parameters else 1.0)

    def _nbytes(self, tensor: Tensor) -> float:
        return self.stored[tensor.name].nbytes if self.stored is not None else 2 * prod(tensor.shape)

    def _embeds(self, tensor: Tensor) -> bool:
        return tensor.name.startswith(f"{self.spec.embedding.name}.")

    def contexts(self) -> list[int]:
        """The contexts at which sizes are shown: the usual ones, and the model's own."""
        return sorted({*CONTEXTS, self.spec.context})

    def to_dict(self) -> dict[str, Any]:
        """As JSON values with stable keys; null for what only models that generate have."""
        cache, flops, generates = self.kv_cache, self.flops, self.spec.generates
        contexts = self.contexts()
        return {
            "architecture": self.spec.architecture,
            "context": self.spec.context,
            "parameters": {
                "total": self.parameters.total,
                "active": self.parameters.active,
                "embedding": self.parameters.embedding,
                "ahead": self.parameters.ahead,
            },
            "bytes": {"weights": self.nbytes, "stored": self.stored is not None},
            "kv_cache": {
                "bytes_per_number": 2,
                "bytes_per_token": cache.bytes_per_token,
                "bytes_per_token_growing": cache.bytes_per_token_growing,
                "at": {str(context): cache.at(context) for context in contexts},
                "outgrows_weights_at": cache.outgrows(self.nbytes) if generates else None,
                "layers": [_layer(layer, times) for layer, times in cache.kinds()],
                "if": {
                    name: {"bytes_per_token": other.bytes_per_token, "at": {str(c): other.at(c) for c in contexts}}
                    for name, other in variants(self.spec).items()
                },
            },
            "flops": {
                "decode_per_token": flops.decode().total if generates else None,
                "decode_at": {str(c): flops.decode(c).total for c in contexts} if generates else {},
                "prefill": {str(n): flops.prefill(n).total for n in _lengths(contexts, self.spec.context)},
            },
            "bytes_read": {
                "weights": round(self.weights_read),
                "decode_at": {str(c): round(self.read(c)) for c in contexts} if generates else {},
                "prefill": {str(n): round(self.read_at_once(n)) for n in _lengths(contexts, self.spec.context)},
            },
            "tree": self.tree.to_dict(),
        }

    def _repr_html_(self) -> str:
        from ordito.accounting.report import report

        return "".join(table.html() for table in report(self))


def account(spec: Spec, stored: Mapping[str, Stored] | None = None) -> Account:
    """The account of `spec`; with `stored` (canonical name -> how a file holds it) at the precision of that file.

    Raises `OrditoError` for anything but a spec.

    >>> from ordito.families import spec_from_config
    >>> account(spec_from_config({"model_type": "gemma2"})).kv_cache.at(32768)
    1962934272
    """
    expect_spec(spec, "account")
    return Account(spec, stored)


account.count = count  # type: ignore[attr-defined]  # public as `ordito.account.count`: the totals alone


def _layer(layer: Layer, times: int) -> dict[str, Any]:
    return {"layers": times, "kind": layer.kind, "bytes_per_token": 2 * layer.numbers, "span": layer.span}


def _lengths(contexts: Iterable[int], most: int) -> list[int]:
    return [512, *(context for context in contexts if context <= most)] if most >= 512 else [most]
