"""The native runtime: C++ on the CPU, without PyTorch, computing on quantized weights as files store them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import count
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from ordito import _core
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import ContextError, OrditoError, SpecError, unknown
from ordito.native.arithmetic import ARITHMETIC, CACHES, default_cache, default_dtype
from ordito.native.plan import Plan, lower
from ordito.native.screening import screened
from ordito.native.shares import Part, shares, tokens_together
from ordito.native.weights import Weights
from ordito.runtime import Floats, check_dtype
from ordito.spec import GELU_SIGMOID_SLOPE, Activation, Attention, Dense, MixtureOfExperts, Rope, Spec
from ordito.threads import usable_threads

BATCH = 512
"""Tokens of texts whose hidden states are computed in one batch; a longer text is a batch of its own."""

_ids = count(1)  # of runtimes: a sequence carries the id of its runtime, and no other runtime may read it
_alive: WeakSet[NativeRuntime] = WeakSet()


class NativeSession:
    """A sequence in the native runtime's paged cache."""

    def __init__(self, runtime: NativeRuntime, source: Sequence[int] | None = None) -> None:
        self.runtime, self.sequence = runtime, runtime.sequence(source)

    @property
    def length(self) -> int:
        """Tokens that are cached."""
        return self.sequence.length

    def feed(self, token_ids: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens; returns the logits (V,) after the last of them. `greatest` is that of `step`."""
        return self.runtime.step([(self.sequence, list(token_ids))], [len(token_ids) - 1], greatest)[0]

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens, or all of them where a windowed layer no longer has their keys."""
        self.sequence.rewind(length)


class NativeRuntime:
    """A checkpoint in the C++ runtime.

    `dtype` is the arithmetic of products, one of `ARITHMETIC`. The default is `float32` if all weights are fp32 and the model
    does not embed texts, else `int12` or, from a billion parameters on, `int8`. The KL divergence from fp32 is about 1e-5 nats
    in `int12` and 5e-4 in `int8` beside the quantized weights of SmolLM2, 1e-6 beside weights that are not quantized. `threads`
    defaults to the usable cores, `kernels`, an instruction set by name, to the fastest.
    Raises `OrditoError` for an unknown or unavailable one, and `NotLoweredError` for a block that only PyTorch computes.
    """

    def __init__(
        self, checkpoint: Checkpoint, dtype: str | None = None, *, threads: int | None = None, kernels: str | None = None
    ) -> None:
        dtype = dtype or default_dtype(checkpoint.spec, checkpoint.encodings)
        check_dtype(dtype, ARITHMETIC, "native")
        self.spec: Spec = checkpoint.spec
        self.checkpoint, self.dtype = checkpoint, dtype
        try:
            self.machine = _core.Machine(threads or usable_threads(), kernels, dtype)
        except ValueError as error:  # unavailable kernels, or too many threads
            raise OrditoError(str(error)) from None
        self._id, self._cache = next(_ids), default_cache(dtype, _core.Kernels(kernels).int16)
        weights = Weights(checkpoint, self.machine)
        self.plans = lower(self.spec, weights)
        weights.let_go()
        split = self.plans.matrices.get(screened(self.spec) or "", []) if dtype != "float32" else []
        self.spared = sum(matrix.lower_bytes for matrix in split)  # bytes that steps for a few of the largest logits skip
        self._slots = [slot.fields for slot in self.plans.slots]
        attentions = [block for _, block in self.spec.attentions]
        has_capacity = any(isinstance(leaf, MixtureOfExperts) and leaf.router.capacity for _, leaf in self.spec.leaves())
        dynamic_rope = any(block.rope and block.rope.depends_on_length for block in attentions)
        bidirectional = any(isinstance(block, Attention) and not block.causal and not block.cross for block in attentions)
        _alive.add(self)
        self.reads_whole = has_capacity or dynamic_rope or bidirectional
        self.share_tokens = tokens_together(self.spec)

    def sequence(self, source: Sequence[int] | None = None, cache: str | None = None) -> _core.Cached:
        """A new sequence, empty; an encoder-decoder's has read the `source`. `cache`: the type of keys and values."""
        if cache is not None and cache not in CACHES:
            raise OrditoError(unknown("cache type", cache, CACHES))
        made = _core.Cached(self._slots, cache or self._cache, self._id)
        if source is not None:
            self.read_source(made, source)
        return made

    def cache_bytes(self) -> int:
        """Bytes of the KV caches of all models, shared pages counted once."""
        return _core.cache_bytes()

    def session(self, source: Sequence[int] | None = None) -> NativeSession:
        """A new sequence to feed tokens to. An encoder-decoder needs a `source`, as in `sequence`.

        Waits until the weights are packed, so that a benchmark does not measure the packing.
        """
        self.machine.ready()
        self._needs_source(source)
        return NativeSession(self, source)

    def logits(self, token_ids: Sequence[int], source: Sequence[int] | None = None) -> Floats:
        """Logits (T, V) after each token; an encoder-decoder answers the `source`."""
        self._needs_source(source)
        sequence = self.sequence(source)
        return self.step([(sequence, list(token_ids))], range(len(token_ids)))

    def hidden(self, texts: Sequence[Sequence[int]], source: Sequence[int] | None = None) -> list[Floats]:
        """Hidden states (T, D) of each token of each text; texts are concatenated in batches, without padding.

        An encoder-decoder gives the encoder's, or, with a `source`, those of its decoder that answers it.
        """
        encode = self.plans.encode if source is None else None
        found: list[Floats] = []
        for some in _batches([list(text) for text in texts]):
            sequences = [self.sequence(source, "f32") for _ in some]
            parts = list(zip(sequences, some, strict=True))
            states = self._run(encode or self.plans.hidden, parts, [], advance=encode is None)
            found += np.split(states, np.cumsum([len(text) for text in some])[:-1])
        return found

    def transform(self, vectors_ND: Floats) -> Floats:
        """Vectors (N, D) through the dense layers of the model's pooling: (N, D')."""
        for dense in self.spec.pooling.dense if self.spec.pooling else ():
            vectors_ND = self._dense(dense, vectors_ND)
        return vectors_ND

    def weights(self) -> dict[str, Floats]:
        """Every tensor of the model under its canonical name, in fp32."""
        return dict(self.checkpoint)

    def read_source(self, sequence: _core.Cached, source: Sequence[int]) -> None:
        """Let the encoder read the text that `sequence` is to answer, in place of an earlier one."""
        if self.plans.encode is None:
            raise SpecError(f"this {self.spec.architecture} model has no encoder")
        if not len(source):
            raise OrditoError("got a source without tokens, expected at least one")
        for slot, kept in enumerate(self.plans.slots):
            if kept.of_source:
                sequence.clear(slot)
        self._run(self.plans.encode, [(sequence, list(source))], [], advance=False)
        for slot in self.plans.encoder_slots:
            sequence.clear(slot)

    def step(self, parts: Sequence[Part], wanted: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens of several sequences as one batch; returns logits (len(wanted), V), as `Runtime.step` says.

        With `greatest` > 0, logits that are not among the `greatest` largest of a row may be minus infinity: of a large head in
        Q8_0 or Q6_K only the upper bits are then read, if few rows are wanted (cpp/screening.hpp). Raises `OrditoError` for
        token ids, rows or counts out of range, and for a sequence of another runtime or in use by another thread.
        """
        if self.plans.logits is None:
            raise SpecError(f"this {self.spec.architecture} model has no language-model head: it gives hidden states only")
        if not parts or not all(len(ids) for _, ids in parts):
            raise OrditoError("got a text without tokens, expected at least one")
        if len({id(sequence) for sequence, _ in parts}) < len(parts):
            raise OrditoError("got the same sequence twice in one step, expected each once")
        if any(sequence.model != self._id for sequence, _ in parts):
            raise OrditoError("got a sequence of another runtime, expected one that this runtime's `sequence()` made")
        rows = sum(len(ids) for _, ids in parts)
        if wrong := [row for row in wanted if not 0 <= row < rows]:
            raise OrditoError(f"row {wrong[0]} is not read, expected 0 to {rows - 1}")
        if not isinstance(greatest, int) or greatest < 0:
            raise OrditoError(f"got {greatest!r} for how many of the greatest logits, expected a whole number; 0 for all")
        return self._run(self.plans.logits, parts, wanted, min(greatest, self.spec.vocab_size))

    def _run(
        self,
        plan: Plan,
        parts: Sequence[Part],
        wanted: Sequence[int],
        greatest: int = 0,
        *,
        advance: bool = True,
    ) -> Floats:
        before = [(sequence, sequence.length) for sequence, _ in parts] if advance else []
        try:
            if not advance or self.reads_whole or sum(len(ids) for _, ids in parts) <= self.share_tokens:
                return self._run_share(plan, parts, wanted, greatest, advance=advance)
            found = [self._run_share(plan, *share, greatest) for share in shares(parts, wanted, self.share_tokens)]
        except _core.Busy as error:
            raise OrditoError(str(error)) from None
        except BaseException:  # a step is read as a whole or not at all, even after Ctrl-C or out of memory
            for sequence, length in before:
                sequence.rewind(length)
            raise
        order = sorted(range(len(wanted)), key=lambda place: wanted[place] // self.share_tokens)  # the order in `found`
        logits = np.concatenate(found)
        return logits if order == list(range(len(order))) else logits[np.argsort(order)]

    def _run_share(
        self,
        plan: Plan,
        parts: Sequence[Part],
        wanted: Sequence[int],
        greatest: int = 0,
        *,
        advance: bool = True,
    ) -> Floats:
        starts = [sequence.length if advance else 0 for sequence, _ in parts]
        ends = [start + len(ids) for start, (_, ids) in zip(starts, parts, strict=True)]
        embedding = self.spec.embedding
        if embedding.n_positions and max(ends) > (most := embedding.n_positions - embedding.first_position):
            raise ContextError(f"got {max(ends)} tokens, but the model has {most} positions: shorten it")
        rotations = [
            [_rotation(rope, end) for end in ends] if rope.depends_on_length else [_rotation(rope, 0)] for rope in plan.ropes
        ]
        positions = [p for start, end in zip(starts, ends, strict=True) for p in range(start, end)]
        factors = [np.array([t.factor(p) for p in positions], np.float32) for t in plan.temperatures]
        given = [(sequence, len(ids), start, advance) for start, (sequence, ids) in zip(starts, parts, strict=True)]
        ids = self._checked_ids([id for _, some in parts for id in some])
        return self.machine.run(plan.program, given, ids, list(wanted), greatest, rotations, factors, plan.result)

    def _needs_source(self, source: Sequence[int] | None) -> None:
        if self.plans.encode is not None and source is None:
            raise OrditoError(f"this {self.spec.architecture} model answers a source: give one")

    def _checked_ids(self, read: list[int]) -> NDArray[np.int32]:
        ids, most = np.asarray(read), self.spec.vocab_size - 1
        if ids.dtype.kind in "iu":
            wrong = ids[(ids < 0) | (ids > most)].tolist()
        else:  # not integers, or too large for numpy's
            wrong = [id for id in read if not isinstance(id, int) or not 0 <= id <= most]
        if wrong:
            raise OrditoError(f"token id {wrong[0]!r} is not in the vocabulary, expected 0 to {most}")
        return ids.astype(np.int32)

    def _dense(self, dense: Dense, x: Floats) -> Floats:
        tensors = {name.rpartition(".")[2]: self.checkpoint.read(name) for name, _ in dense.tensors()}
        y = x @ tensors["weight"].T + tensors.get("bias", np.float32(0))
        return _activated(dense.activation, y) if dense.activation else y


def _finish_packing() -> None:
    """Finish packing before a fork: the child process would not have the thread that packs."""
    for runtime in list(_alive):
        runtime.machine.ready()


os.register_at_fork(before=_finish_packing)


@lru_cache(256)
def _rotation(rope: Rope, length: int) -> tuple[Floats, float]:
    """Radians per position of each pair of channels, and the factor for cosines and sines."""
    return np.array(rope.frequencies(length), np.float32), rope.magnitude(length)


def _activated(activation: Activation, x: Floats) -> Floats:
    kernels = _core.Kernels(None)
    return kernels.activate(activation, None, np.ascontiguousarray(x), 0, 0, GELU_SIGMOID_SLOPE).reshape(x.shape)


def _batches(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """Batches of consecutive texts with at most `BATCH` tokens in total."""
    some: list[list[int]] = []
    for text in texts:
        if some and sum(map(len, some)) + len(text) > BATCH:
            yield some
            some = []
        some.append(text)
    if some:
        yield some
