"""`ordito.load`: a model by its name, with an adapter, quantized while it is loaded."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ordito.checkpoint.rounded import already_rounded, rounded
from ordito.checkpoint.stored import shown
from ordito.engine.backends import load_runtime
from ordito.errors import ModelNotFoundError, OrditoError, OrditoWarning
from ordito.model import Model
from ordito.text.from_checkpoint import load_tokenizer

if TYPE_CHECKING:
    from ordito.checkpoint.adapter import Adapter


def load(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    merge: bool = True,
    prompt_format: str | None = None,
    backend: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    progress: Any = None,
) -> Model:
    """Load a model by name (`smollm2`), Hugging Face id (`org/name[:quant][@revision]`) or path; fetches it if need be.

    A LoRA `adapter` (a folder or Hugging Face id) is merged into the weights or, without `merge`, applied unmerged. Where
    `name` itself is an adapter, the base is the one that it was trained on. `prompt_format` names the format of its
    conversations (`camoscio`, `llama-2`, ...) where neither the files nor the vocabulary show it. `backend` is the fastest one
    installed unless named, `dtype` that of its arithmetic (native: int12, int8, float32; torch: float32, bfloat16, float16).
    `quantize` rounds the weights while they are loaded (q8_0, q4_k_m, ...): a model in bf16 then needs a part of the memory.

    Raises `ModelNotFoundError`, `DownloadError`, `CheckpointError`, `ConfigError` or `TokenizerError`, each with one sentence
    that says what to do.
    """
    # Imported only where there is an adapter, because most models have none and start sooner without.
    path = store.locate(str(name), progress=progress).path
    chosen = None
    if adapter is not None or store.is_adapter(_names_in(path)):
        from ordito.checkpoint.adapter import open_adapter

        chosen = open_adapter(path if adapter is None else store.locate(str(adapter), progress=progress).path)
        path = _base(chosen, progress) if adapter is None else path
    checkpoint = open_checkpoint(path)
    if chosen is not None:
        from ordito.checkpoint.adapted import adapted, grown

        checkpoint = grown(checkpoint, chosen)
        checkpoint = adapted(checkpoint, chosen) if merge else checkpoint
    if quantize is not None:
        checkpoint = _rounded(checkpoint, quantize)
    if chosen is None:
        return Model(checkpoint, load_runtime(checkpoint, backend, dtype), prompt_format)
    model = Model(checkpoint, load_runtime(checkpoint, backend, dtype, None if merge else chosen), prompt_format)
    if store.has_vocabulary(_names_in(chosen.path)):
        # An adapter that brings a tokenizer was trained with its chat template.
        model.tokenizer = load_tokenizer(replace(checkpoint, path=chosen.path, format="huggingface"))
    return model


def _rounded(checkpoint: Checkpoint, quantization: str) -> Checkpoint:
    fewer = rounded(checkpoint, quantization)
    if (was := already_rounded(checkpoint)) is not None:
        warnings.warn(
            f"{checkpoint.path}: is {was.upper()} already, and rounding it again to {quantization.upper()} loses more than "
            "rounding the original would",
            OrditoWarning,
            stacklevel=3,
        )
    return fewer


def _names_in(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()] if path.is_dir() else []


def _base(adapter: Adapter, progress: Any) -> Path:
    """The path of an adapter's base model. Raises `ModelNotFoundError` if it cannot be found or fetched."""
    give = "give the base: ordito.load(BASE, adapter=...), or ordito run BASE --adapter ..."
    if adapter.base is None:
        raise ModelNotFoundError(f"{adapter.path} is an adapter that does not say of which model; {give}")
    try:
        return store.locate(adapter.base, progress=progress).path
    except OrditoError as error:
        raise ModelNotFoundError(
            f"{adapter.path} is an adapter of {shown(adapter.base)}, which cannot be had ({error}); {give}"
        ) from None
