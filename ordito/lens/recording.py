"""Recording the inputs and outputs of every module in an inference pass, by forward hooks.

The model's code is neither repeated nor changed for it.
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
"""(canonical path of a module, name of the array)."""


@dataclass(frozen=True)
class Recording(Mapping[Place, Floats]):
    """(path, what) -> array, fp32, in order of computation; the first axis is that of `positions`.

    Paths are those of the modules, hence of `Spec.leaves()` and of the tensors' names: `layers.3`, `layers.3.attention.q`.

    | what | of | shape |
    | --- | --- | --- |
    | `input`, `output` | every module; of a layer, the residual stream before and after it | (T, ...) |
    | `q`, `k`, `v` | an attention, after norms and rope | (T, N, H), (T, G, H), (T, G, H) |
    | `weights` | an attention: the weights of all keys; with sinks they sum to less than 1 | (T, N, S) |
    | `heads` | an attention: each head's output, before the output projection | (T, N, H) |
    | `weights`, `experts` | a router: the weights and indices of the chosen experts | (T, K) |

    A pooler reads the first token, whatever the positions. `k` and `v` of cross-attention are those of the whole source;
    `source` is the recording of the encoder. Modules inside the experts of a hierarchical mixture are not recorded.
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
    """Run a model on a text and record every module, for all tokens or those at `positions`.

    An encoder-decoder reads `source_ids` first, of which all tokens are recorded. Raises `OrditoError` for ids or positions out
    of range, and for missing or unexpected `source_ids`.
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
            encoder_hooks = _Recorder(module, tuple(range(len(source_ids))))
            with encoder_hooks.attached():
                read = module.encode(torch.tensor([checked_ids(source_ids, module.spec.vocab_size)]))
            source = Recording(encoder_hooks.rows, encoder_hooks.values)
        hooks = _Recorder(module, rows)
        with hooks.attached():
            hidden_BTD = module.hidden(torch.tensor([ids_T]), source=read)
        if module.spec.head is not None:
            chosen_BTD = hidden_BTD[:, list(rows)]
            hooks.rows = tuple(range(len(rows)))
            with hooks.attached():
                module.project(chosen_BTD)
        if module.spec.pooler is not None:
            hooks.rows = (0,)
            with hooks.attached():
                module.pool(hidden_BTD)
    return Recording(rows, hooks.values, source)


def transformer_of(model: Model | Transformer) -> Transformer:
    """The PyTorch module of a model: that of its runtime, or a new one from its checkpoint."""
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


class _Recorder:
    """Forward hooks that copy arrays of the tokens `rows` to `values`."""

    def __init__(self, module: Transformer, rows: tuple[int, ...]) -> None:
        self.module, self.rows = module, rows
        self.values: dict[Place, Floats] = {}
        crossing = [path for path, leaf in module.spec.attentions if isinstance(leaf, Attention) and leaf.cross]
        self.cross_inputs = {f"{path}.{name}" for path in crossing for name in "kv"}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on every module, until the context ends."""
        handles = [
            module.register_forward_hook(partial(self._record, path), with_kwargs=True)
            for path, module in self.module.named_modules()
            if path and not isinstance(module, RelativeBias)  # its output is part of the scores
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _record(self, path: str, module: nn.Module, inputs: tuple[Any, ...], settings: dict[str, Any], output: Any) -> None:
        match module:
            case Attend():
                self._record_attention(path.rpartition(".")[0], inputs, settings, output)
            case Router():
                self.values[path, "weights"], self.values[path, "experts"] = map(self._selected, output)
            case _:
                keep = _all_rows if path in self.cross_inputs else self._selected
                if inputs[0].is_floating_point():
                    self.values[path, "input"] = keep(inputs[0])
                self.values[path, "output"] = keep(output)

    def _record_attention(self, path: str, inputs: tuple[Any, ...], settings: dict[str, Any], output: Tensor) -> None:
        q_BNTH, k_BGSH, v_BGSH, visible_B1TS, scale = inputs
        rows, cross = list(self.rows), f"{path}.k" in self.cross_inputs
        if (bias_BNTS := settings.get("bias_BNTS")) is not None:
            settings = settings | {"bias_BNTS": bias_BNTS[:, :, rows]}
        weights = probabilities(q_BNTH[:, :, rows], k_BGSH, visible_B1TS[:, :, rows], scale, **settings)
        self.values[path, "q"] = self._selected(q_BNTH)
        for name, tensor in (("k", k_BGSH), ("v", v_BGSH)):
            self.values[path, name] = _all_rows(tensor) if cross else self._selected(tensor)
        self.values[path, "weights"] = _all_rows(weights)
        self.values[path, "heads"] = self._selected(output)

    def _selected(self, tensor: Tensor) -> Floats:
        """The recorded rows, (rows, ...), of (1, T, ...), (1, N, T, H) or (T, ...)."""
        values = _all_rows(tensor)
        return values if self.rows == tuple(range(len(values))) else values[list(self.rows)]


def _all_rows(tensor: Tensor) -> Floats:
    """All rows: (1, T, ...) as (T, ...), (1, N, T, H) as (T, N, H), (T, ...) as it is."""
    if tensor.ndim == 4:
        return _array(tensor[0].transpose(0, 1))
    return _array(tensor[0] if tensor.ndim == 3 else tensor)


def _array(tensor: Tensor) -> Floats:
    """An array in fp32 of a floating-point tensor; integers keep their dtype."""
    return floats_of(tensor) if tensor.is_floating_point() else tensor.cpu().numpy()
