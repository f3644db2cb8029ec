"""What goes on inside a model while it reads: taken from the very forward pass that inference makes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ordito.nn.transformer import Transformer
from ordito.runtime import Floats
from ordito.spec import Chain, Head, Spec, Stack, leaves_of


@dataclass(frozen=True)
class Recording:
    """What the leaves of a spec gave and did, by their canonical paths, for one text of T tokens.

    `out`: what each leaf gave, (T, D). `attention`: how much each query looked at each key, (N, T, S). `experts`: which were
    chosen, (T, K), and with which weights. `layers`: the residual stream after each layer, (T, D). `logits`: (T, V), if
    there is a head. Of an encoder-decoder the encoder's leaves are here too, with their own lengths.
    """

    out: dict[str, Floats] = field(default_factory=dict)
    attention: dict[str, Floats] = field(default_factory=dict)
    experts: dict[str, tuple[Floats, Any]] = field(default_factory=dict)
    layers: dict[str, Floats] = field(default_factory=dict)
    logits: Floats | None = None


@torch.inference_mode()
def record(module: Transformer, token_ids: Sequence[int], source: Sequence[int] | None = None) -> Recording:
    """Read a text, of an encoder-decoder one that answers `source`, and keep what every leaf made of it."""
    found = Recording()
    with _watching(module, found):
        states = module.encode(torch.tensor([list(source)])) if source is not None else None
        ids_BT = torch.tensor([list(token_ids)])
        if module.spec.encoder is not None and states is None:
            module.encode(ids_BT)
            return found
        hidden = module.hidden(ids_BT, source=states)
        logits = _array(module.project(hidden)[0]) if module.spec.head is not None else None
    return Recording(found.out, found.attention, found.experts, found.layers, logits)


@torch.inference_mode()
def guesses(module: Transformer, stream_TD: Floats) -> Floats | None:
    """The logits (T, V) that the last norm and the head would make of a residual stream; None without a head.

    The "logit lens": what the model would say if it stopped after a layer.
    """
    if module.spec.head is None:
        return None
    hidden = torch.from_numpy(stream_TD)[None].to(next(module.parameters()).dtype)
    for name in _after_layers(module.spec):
        hidden = getattr(module, name)(hidden, None)
    return _array(module.project(hidden)[0])


@contextmanager
def _watching(module: Transformer, found: Recording) -> Iterator[None]:
    paths = {path for path, leaf in module.spec.leaves() if not isinstance(leaf, Head)}  # logits are kept once
    named = {child: path for path, child in module.named_modules()}

    def gave(path: str, into: dict[str, Floats]) -> Any:
        def hook(child: nn.Module, given: Any, result: Tensor) -> None:
            into[path] = _array(result[0])

        return hook

    def tap(child: nn.Module, seen: dict[str, Tensor]) -> None:
        if "chosen" in seen:
            found.experts[named[child]] = _array(seen["weights"]), seen["chosen"].numpy().copy()
        else:
            found.attention[named[child]] = _array(seen["weights"][0])

    hooks = [
        child.register_forward_hook(gave(path, found.out if path in paths else found.layers))
        for child, path in named.items()
        if path in paths or path.rpartition(".")[2].isdigit()
    ]
    module.tap = tap
    try:
        yield
    finally:
        module.tap = None
        for hook in hooks:
            hook.remove()


def _after_layers(spec: Spec) -> list[str]:
    """The names of what stands between the layers and the head: the last norm, where there is one."""
    parts = spec.body.parts if isinstance(spec.body, Chain) else (spec.body,)
    last = max((number for number, part in enumerate(parts) if isinstance(part, Stack)), default=len(parts) - 1)
    return [path for part in parts[last + 1 :] for path, _ in leaves_of(part)]


def _array(tensor: Tensor) -> Floats:
    values: Floats = np.array(tensor.float().numpy(), copy=True)
    return values
