"""Writing models to files: `ordito.save` and `ordito convert`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.convert import Weights, to_gguf
from ordito.checkpoint.export import DTYPES, write_folder, write_json, write_prompts
from ordito.checkpoint.importance import Importance, read_importance
from ordito.checkpoint.pooling import prompts_from_folder
from ordito.checkpoint.store.cached import licence_of
from ordito.errors import NoTokenizerError, OrditoError, OrditoWarning
from ordito.files import write_atomically
from ordito.model import Model
from ordito.runtime import Floats
from ordito.text.from_checkpoint import end_ids, load_tokenizer
from ordito.text.from_gguf import NO_VOCABULARY
from ordito.text.to_gguf import metadata_of
from ordito.text.tokenizer import Tokenizer


def save(
    model: Model, path: str | Path, *, dtype: str | None = None, importance: Importance | str | Path | None = None
) -> Path:
    """Write `model` to a folder in the Hugging Face layout, or, if `path` ends in .gguf, to one GGUF file.

    transformers loads the folder, llama.cpp the file. `dtype` is that of a folder's weights (f32 by default, f16, bf16) or of
    a file's matrices (f16 by default, f32, bf16, or a quantization: q8_0, q4_k_m, ...). An `importance` matrix, or the path of
    its file, weighs the errors of quantization. Returns the path. Of a model without a tokenizer only the weights are written,
    with a warning.

    Raises `ConfigError` if the format cannot express the spec, `TokenizerError` if it cannot express the tokenizer,
    `OrditoError` if `path` cannot be written, numbers are too large for `dtype`, or `model` is not a model.
    """
    if not isinstance(model, Model):
        raise OrditoError(f"save: got {type(model).__name__}, expected a model: ordito.load(name)")
    tokenizer = _found(lambda: model.tokenizer)
    return write(Path(path), model.checkpoint, model.runtime.weights(), tokenizer, dtype=dtype, importance=importance)


def convert(
    checkpoint: Checkpoint, path: str | Path, *, dtype: str | None = None, importance: Importance | str | Path | None = None
) -> Path:
    """Write a checkpoint as `save` does, without loading it: its tensors are read one by one. Raises as `save` does."""
    tokenizer = _found(lambda: load_tokenizer(checkpoint))
    return write(Path(path), checkpoint, Weights(checkpoint), tokenizer, dtype=dtype, importance=importance)


def _found(read: Callable[[], Tokenizer]) -> Tokenizer | None:
    """The tokenizer that `read` gives. Where the model's files have none, None with a warning (`OrditoWarning`)."""
    try:
        return read()
    except NoTokenizerError as error:
        warnings.warn(f"only the weights are written, since {error}", OrditoWarning, stacklevel=3)
        return None


def write(
    path: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, Floats],
    tokenizer: Tokenizer | None,
    *,
    dtype: str | None = None,
    importance: Importance | str | Path | None = None,
) -> Path:
    """Write `weights`, by canonical name, with the checkpoint's configuration and any `tokenizer`. Raises as `save` does."""
    spec = checkpoint.spec
    if isinstance(importance, (str, Path)):
        importance = read_importance(Path(importance))
    if path.suffix == ".gguf":
        to_gguf(
            path, spec, weights, _metadata(checkpoint, tokenizer), name=path.stem, dtype=dtype or "f16", importance=importance
        )
        return path
    dtype = (dtype or "f32").lower()
    if dtype not in DTYPES or importance is not None:
        got = "an importance matrix" if importance is not None else repr(dtype)
        raise OrditoError(f"{path}: a folder holds its weights as {', '.join(DTYPES)}, got {got}: name a .gguf file for that")
    return _write_folder(path, checkpoint, weights, tokenizer, dtype)


def _metadata(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> Mapping[str, Any]:
    """The metadata of a GGUF file beside those of the spec: the checkpoint's own, or licence and tokenizer."""
    none = {"tokenizer.ggml.model": NO_VOCABULARY}
    if checkpoint.format == "gguf":
        return checkpoint.metadata if tokenizer else {**checkpoint.metadata, **none}
    licence = _licence(checkpoint)
    stated = {} if licence is None else {"general.license": licence}
    return stated | (metadata_of(tokenizer, checkpoint.spec.vocab_size) if tokenizer else none)


def _licence(checkpoint: Checkpoint) -> str | None:
    """The licence that a GGUF file or a model card names, as one word."""
    if checkpoint.format != "gguf":
        return licence_of(checkpoint.path)
    stated = checkpoint.metadata.get("general.license")
    return stated if isinstance(stated, str) and re.fullmatch(r"[\w.+-]{1,100}", stated) else None


def _write_folder(
    folder: Path, checkpoint: Checkpoint, weights: Mapping[str, Floats], tokenizer: Tokenizer | None, dtype: str
) -> Path:
    if tokenizer:
        named = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    else:
        named = {key: checkpoint.metadata.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ids = {key: id for key, id in named.items() if id is not None}
    write_folder(folder, checkpoint.spec, weights, extra=ids, dtype=dtype)
    if tokenizer:
        tokenizer.to_folder(folder)
    card = folder / "README.md"
    if (licence := _licence(checkpoint)) and not card.exists():
        write_atomically(card, [f"---\nlicense: {licence}\n---\n".encode()])
    if checkpoint.format == "huggingface":
        prompts, default = prompts_from_folder(checkpoint.path)
        if prompts:
            write_prompts(folder, prompts, default)
    if checkpoint.spec.generates:
        found = end_ids(checkpoint, tokenizer)
        ends = {"eos_token_id": sorted(found)} if found else {}
        write_json(folder / "generation_config.json", ids | checkpoint.generation | ends)
    return folder
