"""The PyTorch backend of the engine."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch

from ordito.checkpoint.adapter import Adapter
from ordito.checkpoint.adapter_names import changes_by_ours
from ordito.checkpoint.checkpoint import Checkpoint
from ordito.errors import OrditoError
from ordito.nn.adapter import Adapters
from ordito.nn.arrays import floats_of
from ordito.nn.transformer import Source, Transformer
from ordito.runtime import Floats, check_dtype
from ordito.spec import MixtureOfExperts, Spec

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FIRST_CAPACITY = 256
"""Capacity of a new sequence's cache, in tokens; it doubles whenever it is exceeded."""
CHUNK = 512
"""Tokens of a prompt that are prefilled at once, so that the memory of activations does not grow with the prompt."""


def load_transformer(checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> Transformer:
    """The module of a checkpoint's spec with the checkpoint's weights in `dtype`, in evaluation mode."""
    with torch.device("meta"):
        module = Transformer(checkpoint.spec)
    weights = {name: torch.from_numpy(_owned(array)).to(dtype) for name, array in checkpoint}
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval()


def _owned(array: np.ndarray) -> np.ndarray:
    """The array itself, or a copy if it is read-only, which PyTorch tensors cannot be."""
    return array if array.flags.writeable else array.copy()


class TorchSession:
    """A sequence with its KV cache."""

    def __init__(self, module: Transformer, source: Source | None = None) -> None:
        self.module, self.source = module, source
        self.chunk = None if reads_whole(module) else CHUNK
        self.cache = module.new_cache(1, FIRST_CAPACITY, self.chunk)

    @property
    def length(self) -> int:
        """Tokens that are cached."""
        return self.cache.length

    def feed(self, token_ids: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens; returns the logits (V,) after the last of them. `greatest` is ignored: all V are returned."""
        return self.read(token_ids, [len(token_ids) - 1])[0]

    @torch.inference_mode()
    def read(self, token_ids: Sequence[int], wanted: Sequence[int]) -> Floats:
        """Read more tokens; returns the logits (len(wanted), V) after those at the indices `wanted`, which ascend."""
        ids = list(token_ids)
        needed = self.cache.length + len(ids)
        if needed > self.cache.capacity:
            self.cache.grow(max(needed, 2 * self.cache.capacity))
        before = self.cache.length
        try:
            size = self.chunk or max(len(ids), 1)
            found = []
            for start in range(0, max(len(ids), 1), size):
                hidden = self.module.hidden(torch.tensor([ids[start : start + size]]), cache=self.cache, source=self.source)
                rows = [row - start for row in wanted if start <= row < start + size]
                found.append(floats_of(self.module.project(hidden[0, rows])))
            return np.concatenate(found)
        except BaseException:  # also Ctrl-C between two layers: places whose keys are not written must not count as cached
            self.cache.rewind(before)
            raise

    @torch.inference_mode()
    def rewind(self, length: int) -> None:
        """Truncate to the first `length` tokens, or to none if sliding windows no longer hold the tokens before that place."""
        self.cache.rewind(length)

    def fork(self, length: int) -> TorchSession:
        """A copy of the first `length` tokens, or an empty one if sliding windows no longer hold those before that place."""
        other = copy.copy(self)
        other.cache = copy.deepcopy(self.cache)
        other.rewind(length)
        return other


def reads_whole(module: Transformer) -> bool:
    """Whether a prompt must be read in one forward pass, because its length changes the results of its earlier tokens.

    It does if rotary frequencies depend on the length, or if experts have a capacity.
    """
    limited = any(isinstance(leaf, MixtureOfExperts) and leaf.router.capacity for _, leaf in module.spec.leaves())
    return module.rope_depends_on_length or limited


class TorchRuntime:
    """A checkpoint as a PyTorch module on the CPU; an `adapter` is attached under the name `adapter`, and active."""

    spared = 0

    def __init__(
        self, checkpoint: Checkpoint, dtype: str = "float32", adapter: Adapter | None = None, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        check_dtype(dtype, DTYPES, "torch")
        self.spec: Spec = checkpoint.spec
        self.module = load_transformer(checkpoint, DTYPES[dtype])
        self.reads_whole = reads_whole(self.module)
        self.adapters = Adapters(self.module)
        if adapter is not None:
            self.adapters.add("adapter", *changes_by_ours(adapter, self.spec))
            self.adapters.use("adapter")

    def session(self, source: Sequence[int] | None = None) -> TorchSession:
        """An empty sequence; of an encoder-decoder, one that answers the `source`."""
        return TorchSession(self.module, self._encoded(source))

    def sequence(self, source: Sequence[int] | None = None, cache: str | None = None) -> TorchSession:
        """An empty sequence; of an encoder-decoder, one that answers the `source`. The cache has the type of the weights."""
        if cache is not None:
            raise OrditoError(f"the torch backend keeps keys and values in the type of its weights, got cache {cache!r}")
        return self.session(source)

    def step(self, parts: Sequence[tuple[TorchSession, Sequence[int]]], wanted: Sequence[int], greatest: int = 0) -> Floats:
        """Read more tokens of several sequences, one after another; returns all logits (len(wanted), V).

        `wanted` are ascending indices into the tokens of all `parts`, concatenated: the logits after these are returned.
        """
        found, start = [], 0
        for sequence, ids in parts:
            rows = [row - start for row in wanted if start <= row < start + len(ids)]
            found.append(sequence.read(ids, rows))
            start += len(ids)
        return np.concatenate(found)

    def cache_bytes(self) -> int:
        """Not counted: 0."""
        return 0

    @torch.inference_mode()
    def logits(self, token_ids: Sequence[int], source: Sequence[int] | None = None) -> Floats:
        """Logits (T, V) after each token; of an encoder-decoder, as an answer to the `source`."""
        return floats_of(self.module(torch.tensor([list(token_ids)]), source=self._encoded(source))[0])

    @torch.inference_mode()
    def hidden(self, texts: Sequence[Sequence[int]], source: Sequence[int] | None = None) -> list[Floats]:
        """Hidden states (T, D) of each token of each text; the shorter ones are padded on the right.

        Of an encoder-decoder they are the encoder's, or, with a `source`, those of a decoder that answers it.
        """
        longest = max(map(len, texts))
        ids_BT = torch.zeros(len(texts), longest, dtype=torch.long)
        valid_BT = torch.zeros(len(texts), longest, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids_BT[row, : len(text)] = torch.tensor(text)
            valid_BT[row, : len(text)] = True
        valid = None if valid_BT.all() else valid_BT
        if self.spec.encoder is not None and source is None:
            hidden = self.module.encode(ids_BT, valid=valid).states_BSD
        else:
            hidden = self.module.hidden(ids_BT, valid=valid, source=self._encoded(source))
        return [floats_of(states[: len(text)]) for states, text in zip(hidden, texts, strict=True)]

    @torch.inference_mode()
    def transform(self, vectors_ND: Floats) -> Floats:
        """Pooled vectors (N, D) through the dense layers that follow the pooling, (N, D')."""
        return floats_of(self.module.transform(torch.from_numpy(vectors_ND)))

    @torch.inference_mode()
    def _encoded(self, source: Sequence[int] | None) -> Source | None:
        return None if source is None else self.module.encode(torch.tensor([list(source)]))

    def weights(self) -> dict[str, Floats]:
        """Every tensor of the model under its canonical name, in fp32. Raises `OrditoError` while an adapter is active."""
        if self.adapters.active is not None:
            raise OrditoError("the weights do not include the adapter that is attached: load it with merge=True")
        return {name: floats_of(tensor) for name, tensor in self.module.state_dict().items()}
