"""What every module of a model takes and gives while it reads a text: forward hooks on the pass that inference takes.

Nothing of the model is written a second time here, and a model that is not recorded does not know of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ordito.errors import OrditoError
from ordito.nn.arrays import floats_of
from ordito.nn.attention import Attend, RelativeBias, probabilities
from ordito.nn.feedforward import Router
from ordito.nn.transformer import Transformer
from ordito.runtime import Floats, checked_ids
from ordito.spec import Attention

if TYPE_CHECKING:
    from ordito.model import Model

Place = tuple[str, str]
"""A canonical path, and what of it."""


@dataclass(frozen=True)
class Recording(Mapping[Place, Floats]):
    """(path, what) -> array, fp32, in the order in which the model computed them; the first axis is that of `positions`.

    Paths are those of the modules, hence of `Spec.leaves()` and of the tensors' names: `layers.3`, `layers.3.attention.q`.

    | what | of | shape |
    | --- | --- | --- |
    | `input`, `output` | every module of one tensor, so a layer's are the residual stream | (T, ...) |
    | `q`, `k`, `v` | an attention, as they meet: after norms and rope | (T, N, H), (T, G, H), (T, G, H) |
    | `weights` | an attention: probabilities of all keys; with sinks they sum to less than 1 | (T, N, S) |
    | `heads` | an attention: each head's sum, before the output projection | (T, N, H) |
    | `weights`, `experts` | a router: the chosen experts, and what each counts | (T, K) |

    A pooler reads the first token, whatever the positions. Of cross-attention `k` and `v` are those of the whole source;
    `source` is the recording of the encoder that read it. The experts of a hierarchical mixture are not looked into.
    """

    positions: tuple[int, ...]
    arrays: Mapping[Place, Floats]
    source: Recording | None = None

    def __getitem__(self, place: Place) -> Floats:
        return self.arrays[place]

    def __iter__(self) -> Iterator[Place]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


def record(
    model: Model | Transformer,
    token_ids: Sequence[int],
    source_ids: Sequence[int] | None = None,
    *,
    positions: Sequence[int] | None = None,
) -> Recording:
    """Read a text and keep what every module gave, of the tokens at `positions` alone if they are named.

    An encoder-decoder reads `source_ids` first, of which everything is kept. Raises `OrditoError` for ids or positions that
    the model does not have.
    """
    module = transformer_of(model)
    ids_T = checked_ids(token_ids, module.spec.vocab_size)
    rows = tuple(range(len(ids_T))) if positions is None else tuple(positions)
    if outside := [row for row in rows if not 0 <= row < len(ids_T)]:
        raise OrditoError(f"got position {outside[0]} of a text of {len(ids_T)} tokens, expected 0 to {len(ids_T) - 1}")
    if (source_ids is None) != (module.spec.encoder is None):
        needs = "needs source_ids" if source_ids is None else "has no encoder, so it takes no source_ids"
        raise OrditoError(f"this {module.spec.architecture} model {needs}")
    source, read = None, None
    with torch.inference_mode():
        if source_ids is not None:
            all_of_it = _Notes(module, tuple(range(len(source_ids))))
            with all_of_it.taken():
                read = module.encode(torch.tensor([checked_ids(source_ids, module.spec.vocab_size)]))
            source = Recording(all_of_it.rows, all_of_it.values)
        notes = _Notes(module, rows)
        with notes.taken():
            hidden_BTD = module.hidden(torch.tensor([ids_T]), source=read)
        if module.spec.head is not None:
            chosen_BTD = hidden_BTD[:, list(rows)]
            notes.rows = tuple(range(len(rows)))
            with notes.taken():
                module.project(chosen_BTD)
        if module.spec.pooler is not None:
            notes.rows = (0,)
            with notes.taken():
                module.pool(hidden_BTD)
    return Recording(rows, notes.values, source)


def transformer_of(model: Model | Transformer) -> Transformer:
    """The PyTorch module of a model: its runtime's own, or one of the same checkpoint."""
    if isinstance(model, Transformer):
        return model
    found = getattr(model.runtime, "module", None)
    if isinstance(found, Transformer):
        return found
    from ordito.nn.runtime import load_transformer

    return load_transformer(model.checkpoint)


@torch.inference_mode()
def logit_lens(model: Model | Transformer, stream_LD: Floats) -> Floats:
    """Logits (L, V) of residual-stream states (L, D), as if the layers ended there: the logit lens (nostalgebraist, 2020)."""
    module = transformer_of(model)
    dtype = next(module.parameters()).dtype
    return floats_of(module.logit_lens(torch.from_numpy(stream_LD).to(dtype)))


class _Notes:
    """What is written down of one pass, of the tokens `rows`."""

    def __init__(self, module: Transformer, rows: tuple[int, ...]) -> None:
        self.module, self.rows = module, rows
        self.values: dict[Place, Floats] = {}
        crossing = [path for path, leaf in module.spec.attentions if isinstance(leaf, Attention) and leaf.cross]
        self.of_the_source = {f"{path}.{name}" for path in crossing for name in "kv"}

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hooks on every module for as long as this lasts."""
        handles = [
            module.register_forward_hook(partial(self._note, path), with_kwargs=True)
            for path, module in self.module.named_modules()
            if path and not isinstance(module, RelativeBias)  # what it gives is in the scores
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, path: str, module: nn.Module, inputs: tuple[Any, ...], settings: dict[str, Any], output: Any) -> None:
        match module:
            case Attend():
                self._note_attention(path.rpartition(".")[0], inputs, settings, output)
            case Router():
                self.values[path, "weights"], self.values[path, "experts"] = map(self._kept, output)
            case _:
                keep = _whole if path in self.of_the_source else self._kept
                if inputs[0].is_floating_point():
                    self.values[path, "input"] = keep(inputs[0])
                self.values[path, "output"] = keep(output)

    def _note_attention(self, path: str, inputs: tuple[Any, ...], settings: dict[str, Any], output: Tensor) -> None:
        q_BNTH, k_BGSH, v_BGSH, visible_B1TS, scale = inputs
        rows, cross = list(self.rows), f"{path}.k" in self.of_the_source
        if (bias_BNTS := settings.get("bias_BNTS")) is not None:
            settings = settings | {"bias_BNTS": bias_BNTS[:, :, rows]}
        weights = probabilities(q_BNTH[:, :, rows], k_BGSH, visible_B1TS[:, :, rows], scale, **settings)
        self.values[path, "q"] = self._kept(q_BNTH)
        for name, tensor in (("k", k_BGSH), ("v", v_BGSH)):
            self.values[path, name] = _whole(tensor) if cross else self._kept(tensor)
        self.values[path, "weights"] = _whole(weights)
        self.values[path, "heads"] = self._kept(output)

    def _kept(self, tensor: Tensor) -> Floats:
        """The rows to keep of (B, T, ...), (B, N, T, H), or (T, ...) of the one sequence."""
        values = _whole(tensor)
        return values if self.rows == tuple(range(len(values))) else values[list(self.rows)]


def _whole(tensor: Tensor) -> Floats:
    """The one sequence of (B, T, ...), (B, N, T, H), which turns to (T, N, H), or (T, ...)."""
    if tensor.ndim == 4:
        return _array(tensor[0].transpose(0, 1))
    return _array(tensor[0] if tensor.ndim == 3 else tensor)


def _array(tensor: Tensor) -> Floats:
    """A tensor of numbers in fp32, or of whole numbers as it is."""
    return floats_of(tensor) if tensor.is_floating_point() else tensor.cpu().numpy()
