"""The tokenizer of a checkpoint, and the tokens that end its answers."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ordito.errors import OrditoWarning
from ordito.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ordito.checkpoint.checkpoint import Checkpoint


def end_ids(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Token ids that end an answer of a model; without a tokenizer, those that its configuration names."""
    ids = checkpoint.generation.get("eos_token_id", checkpoint.metadata.get("eos_token_id"))
    named = ids if isinstance(ids, list) else [ids]
    return (tokenizer.end_ids if tokenizer else frozenset()) | {
        id for id in named if isinstance(id, int) and 0 <= id < checkpoint.spec.vocab_size
    }


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """A checkpoint's tokenizer. Warns (`OrditoWarning`) if it has more tokens than the model has embeddings."""
    if checkpoint.format == "gguf":
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    else:
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    if tokenizer.vocab_size > checkpoint.spec.vocab_size:
        warnings.warn(
            f"{checkpoint.path}: the tokenizer knows {tokenizer.vocab_size} tokens, but the model embeds only "
            f"{checkpoint.spec.vocab_size}",
            OrditoWarning,
            stacklevel=2,
        )
    return tokenizer
