"""The memory of a vocabulary, by its algorithm and its size."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.outline import Outline
from ordito.checkpoint.store import Vocabulary

# Measured in fresh processes over ten published vocabularies of 30,000 to 262,000 tokens, which they predict to within 20 %.
HELD = {"merges": 36, "pieces": 64, "words": 330}
"""Bytes of memory for a token; for words, the library `tokenizers` keeps tokens of its own."""
HELD_BY_LIBRARY = 150
"""The same for a tokenizer.json with merges, which the library keeps, too."""
MERGE = {"gguf": 30, "json": 170}
"""Bytes of memory for a merge."""
READ_MERGE = {"gguf": 0, "json": 480}
"""Further bytes for a merge while the vocabulary is read, freed afterwards."""
READ_TOKEN = {"pieces": 14, "words": 100}
"""The same for a token of a vocabulary without merges."""

_GGUF: dict[object, Vocabulary] = {"gpt2": "merges", "llama": "pieces", "t5": "pieces", "bert": "words"}


@dataclass(frozen=True, kw_only=True)
class VocabularySize:
    """The numbers of tokens and merges of a vocabulary, its kind, and the format that it is read from."""

    kind: Vocabulary
    tokens: int
    merges: int
    source: Literal["gguf", "json"] = "gguf"

    @property
    def held(self) -> int:
        """Bytes that it takes while the model runs."""
        library = self.kind == "merges" and self.source == "json"
        return (HELD_BY_LIBRARY if library else HELD[self.kind]) * self.tokens + MERGE[self.source] * self.merges

    @property
    def read(self) -> int:
        """Further bytes that it takes while it is read."""
        return READ_MERGE[self.source] * self.merges if self.kind == "merges" else READ_TOKEN[self.kind] * self.tokens


def assumed(tokens: int) -> VocabularySize:
    """An estimate for an unknown vocabulary: as many merges as tokens, which is usual, and needs the most memory."""
    return VocabularySize(kind="merges", tokens=tokens, merges=tokens, source="json")


def vocabulary_size(known: Outline) -> VocabularySize:
    """The vocabulary of a model on this machine, by the header of its GGUF file or its tokenizer.json, or of a shipped model;
    else as `assumed`."""
    metadata, recorded = known.metadata, known.recorded
    if recorded is not None:
        words = VocabularySize(kind=recorded.vocabulary, tokens=known.spec.vocab_size, merges=recorded.merges)
        return words if known.format == "gguf" else replace(words, source="json")
    if (kind := _GGUF.get(metadata.get("tokenizer.ggml.model"))) is not None:
        merges = len(metadata.get("tokenizer.ggml.merges", ())) if kind == "merges" else 0
        return VocabularySize(kind=kind, tokens=len(metadata["tokenizer.ggml.tokens"]), merges=merges)
    if known.path is not None and (file := known.path / "tokenizer.json").is_file():
        merges = len(read_object(file).get("model", {}).get("merges") or ())
        kind = "merges" if merges else "words"
        return VocabularySize(kind=kind, tokens=known.spec.vocab_size, merges=merges, source="json")
    return assumed(known.spec.vocab_size)
