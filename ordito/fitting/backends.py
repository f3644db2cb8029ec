"""Memory and efficiency of each runtime: what it keeps in memory, and the share of the machine's speed that it reaches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil

from ordito.accounting import Account
from ordito.errors import OrditoError, unknown
from ordito.fitting.machine import Machine, arithmetic_shares
from ordito.fitting.memory import Demand, Memory
from ordito.native.screening import spared
from ordito.spec import Attention, LatentAttention

MIB = 2**20
CHUNK = 512
"""Tokens of a prompt that PyTorch reads at once."""
MARGIN = 64
"""Tokens that windowed layers cache beyond their window and a prefill chunk."""


@dataclass(frozen=True, kw_only=True)
class Backend(ABC):
    """How a runtime uses memory and the machine, as measured by `benchmarks/fit_vs_bench.py`.

    `process` are the bytes of the program without a model, `loading` the share of the weights that loading them takes
    beside them (buffers, parts of large pages), `cached` the bytes of one number in the KV cache, and `scales` the numbers that
    the scale of a key or a value is worth; `decode` and `prefill` are the shares of the machine's memory bandwidth and peak
    arithmetic that it reaches, `prefill_fp32` that of its peak in fp32 where products are in fp32.
    """

    name: str
    process: int
    loading: float
    cached: int
    scales: int
    decode: float
    prefill: float
    prefill_fp32: float

    def memory(self, needs: Demand, stored: int, file: int, context: int, batch: int = 1) -> Memory:
        """Bytes for `batch` sequences of `context` tokens, of a model whose weights have `stored` bytes in a file of `file`."""
        cache, activations = self.held_cache(needs, context, batch), self.activations(needs, context)
        weights = self.weights(needs, stored)
        return Memory(
            process=self.process + round(self.loading * weights),
            weights=weights,
            file=self.mapped(file),
            vocabulary=needs.vocabulary.held,
            cache=cache,
            activations=activations,
            # Memory that loading the vocabulary took is freed again, and reused by cache and activations.
            opening=max(0, needs.vocabulary.read - cache - activations),
        )

    def stored(self, machine: Machine, found: Account) -> int:
        """Bytes of a model's weights before the runtime changes their type; by default, those of the file."""
        return found.nbytes

    @abstractmethod
    def weights(self, needs: Demand, stored: float) -> int:
        """Bytes that the weights take in memory, where a file stores them in `stored`."""

    @abstractmethod
    def mapped(self, file: int) -> int:
        """Bytes of the mapped file that stay in memory beside the weights."""

    @abstractmethod
    def read_at_once(self, needs: Demand) -> int:
        """Tokens of a prompt that are computed together: a chunk of the prefill."""

    @abstractmethod
    def held_cache(self, needs: Demand, context: int, batch: int) -> int:
        """Bytes that keys and values of `batch` sequences of `context` tokens take."""

    @abstractmethod
    def activations(self, needs: Demand, context: int) -> int:
        """Bytes of activations, masks and logits at their peak."""

    @abstractmethod
    def weights_read(self, needs: Demand, stored: float) -> float:
        """Bytes of weights that one step reads, where the ones it needs take `stored` in the file."""

    def spared(self, found: Account) -> int:
        """Bytes of weights that greedy decoding does not read (`ordito.native.screening`)."""
        return 0

    @abstractmethod
    def shares(self, machine: Machine, found: Account, dtype: str | None = None) -> dict[str, float]:
        """The share of a model's products in each arithmetic (`Machine.rate`); `dtype` is what it is loaded with."""

    def seconds(self, machine: Machine, found: Account, flops: float) -> float:
        """Seconds that so many FLOPs of a model take."""
        reached = {
            arithmetic: share / (self.prefill_fp32 if arithmetic == "float32" else self.prefill)
            for arithmetic, share in self.shares(machine, found).items()
        }
        return machine.seconds(flops, reached)

    def read(self, needs: Demand, stored: float, context: int, batch: int = 1) -> float:
        """Bytes of weights and KV cache that a decoding step reads for `batch` sequences of `context` tokens.

        The weights that it needs take `stored` bytes in the file.
        """
        return self.weights_read(needs, stored) + batch * self.cached * sum(n * kept for n, kept in self.layers(needs, context))

    def layers(self, needs: Demand, context: int) -> Iterator[tuple[int, int]]:
        """For each layer, numbers cached per token, with scales, and how many of `context` tokens it keeps.

        Cross-attention keeps those of a source, which is taken to be as long.
        """
        more = MARGIN + self.read_at_once(needs)
        for numbers, rows, span in needs.cache:
            yield numbers + self.scales * rows, context if span is None else min(context, span - 1 + more)
        yield from ((numbers + self.scales * rows, context) for numbers, rows in needs.crossed)


class Native(Backend):
    """The C++ runtime: weights in the encoding of the file, which is not kept; no attention scores and no masks."""

    def stored(self, machine: Machine, found: Account) -> int:
        """See `Backend`. Matrices in fp32 that are multiplied as integers of 16 bits take half."""
        if found.stored is None or not machine.int16 or "float32" in self.shares(machine, found):
            return found.nbytes
        matrices = (found.stored[tensor.name] for tensor in found.tensors if len(tensor.shape) > 1)
        return found.nbytes - round(sum(held.nbytes for held in matrices if held.encoding.lower() == "f32") / 2)

    def weights(self, needs: Demand, stored: float) -> int:
        """See `Backend`."""
        return round(stored)

    def mapped(self, file: int) -> int:
        """0: the pages of the file are released once its weights are packed."""
        return 0

    def read_at_once(self, needs: Demand) -> int:
        """See `Backend`."""
        return needs.together

    def held_cache(self, needs: Demand, context: int, batch: int) -> int:
        """See `Backend`. The cache is allocated in blocks."""
        return blocks(self.layers(needs, context), self.cached, batch)

    def activations(self, needs: Demand, context: int) -> int:
        """See `Backend`. The buffers of all kinds of blocks exist at once, beside the keys and values of an encoder.

        Those of an encoder-decoder are freed before its decoder needs as many.
        """
        T = context if needs.encoded else min(self.read_at_once(needs), context)
        encoded = 0 if needs.crossed else blocks(((numbers, T) for numbers in needs.encoded), 4, 1)
        return 4 * (T * (5 * needs.d_model + sum(needs.widths)) + 2 * needs.rows) + encoded

    def weights_read(self, needs: Demand, stored: float) -> float:
        """See `Backend`."""
        return stored

    def spared(self, found: Account) -> int:
        """See `Backend`."""
        return spared(found.spec, found.stored) if found.stored else 0

    def shares(self, machine: Machine, found: Account, dtype: str | None = None) -> dict[str, float]:
        """See `Backend`."""
        return arithmetic_shares(found, machine, dtype)


def blocks(layers: Iterable[tuple[int, int]], number: int, batch: int) -> int:
    """Bytes of the blocks from which the pages of a KV cache are allocated (cpp/cache.cpp); a cached number takes `number`.

    A page holds 32 tokens of a layer. A sequence allocates runs of 1, 1, 2, 4, and then always 8 pages of a layer; runs of one
    size share blocks of 2 MiB or, to hold a whole number of runs, more.
    """
    page_tokens, block = 32, 2 * MIB
    wanted: Counter[int] = Counter()
    for numbers, tokens in layers:
        page, pages = page_tokens * numbers * number, ceil(tokens / page_tokens)
        for before, together in ((0, 1), (1, 1), (2, 2), (4, 4)):
            wanted[together * page] += batch * (pages > before)
        wanted[8 * page] += batch * max(0, ceil((pages - 8) / 8))
    return sum(ceil(count / ceil(block / size)) * ceil(block / size) * size for size, count in wanted.items() if size)


class Torch(Backend):
    """PyTorch: weights in fp32 beside the mapped file, and attention masks."""

    def weights(self, needs: Demand, stored: float) -> int:
        """See `Backend`."""
        return 4 * needs.weights

    def mapped(self, file: int) -> int:
        """All of it."""
        return file

    def read_at_once(self, needs: Demand) -> int:
        """See `Backend`."""
        return CHUNK

    def held_cache(self, needs: Demand, context: int, batch: int) -> int:
        """See `Backend`."""
        return batch * self.cached * sum(numbers * kept for numbers, kept in self.layers(needs, context))

    def activations(self, needs: Demand, context: int) -> int:
        """See `Backend`. The activations of one block are freed before the next."""
        T = context if needs.encoded else min(self.read_at_once(needs), context)
        numbers = T * (6 * needs.d_model + max(needs.widths, default=0)) + 2 * needs.rows
        attention = max((_scores(block, T, context) for block in needs.attentions), default=0)
        return 4 * (numbers + attention) + T * context * needs.masks  # a mask is a byte for each pair

    def weights_read(self, needs: Demand, stored: float) -> float:
        """See `Backend`."""
        return 4 * needs.weights_read

    def shares(self, machine: Machine, found: Account, dtype: str | None = None) -> dict[str, float]:
        """See `Backend`. Weights are dequantized."""
        return {"float32": 1.0}


def _scores(leaf: Attention | LatentAttention, T: int, S: int) -> int:
    """Numbers in attention scores and copies of keys and values. PyTorch's fused kernel has a mask but no scores."""
    if isinstance(leaf, LatentAttention):
        return T * S + 2 * S * leaf.n_heads * (leaf.q_dim + leaf.v_dim)
    if leaf.softcap is None and not leaf.sinks and leaf.relative_bias is None:
        return T * S
    return 3 * leaf.n_heads * T * S + 2 * S * leaf.n_heads * leaf.head_dim


_NATIVE = Native(name="native", process=44 * MIB, loading=0.025, cached=2, scales=2, decode=0.9, prefill=0.6, prefill_fp32=0.75)
_TORCH = Torch(name="torch", process=253 * MIB, loading=0.0, cached=4, scales=0, decode=0.38, prefill=0.3, prefill_fp32=0.3)
BACKENDS = {backend.name: backend for backend in (_NATIVE, _TORCH)}


def backend(name: str | None = None) -> Backend:
    """The runtime of this name, the native one by default. Raises `OrditoError` for an unknown name."""
    chosen = name or next(iter(BACKENDS))
    if chosen not in BACKENDS:
        raise OrditoError(unknown("backend", chosen, BACKENDS))
    return BACKENDS[chosen]
