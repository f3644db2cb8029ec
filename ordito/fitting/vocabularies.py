"""What a vocabulary takes in memory: by how its tokens are found in a text, and by how many they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.outline import Outline

Kind = Literal["merges", "pieces", "words"]
"""Pairs are merged in an order (byte-level BPE, and every tokenizer.json with merges); pieces have scores (SentencePiece, read
here); words are looked up whole (WordPiece)."""

# Measured in fresh processes over eleven published vocabularies of 30,000 to 262,000 tokens, which they meet to within 15 %
# (Gemma's in a tokenizer.json takes 20 % less).
HELD = {"merges": 210, "pieces": 225, "words": 560}
"""Bytes of a token."""
HELD_BY_LIBRARY = 370
"""The same where the library merges, which keeps tokens of its own: every tokenizer.json."""
MERGE = 170
"""Bytes of a merge."""
READ_MERGE = {"gguf": 105, "json": 850}
"""Bytes of a merge while the vocabulary is read, given back afterwards."""
READ_TOKEN = 100
"""The same, of a token where there are no merges."""

_GGUF: dict[object, Kind] = {"gpt2": "merges", "llama": "pieces", "t5": "pieces", "bert": "words"}


@dataclass(frozen=True, kw_only=True)
class VocabularySize:
    """How many tokens and merges a vocabulary of a kind has, and what it is read from."""

    kind: Kind
    tokens: int
    merges: int
    source: Literal["gguf", "json"] = "gguf"

    @property
    def held(self) -> int:
        """Bytes that it takes while the model runs."""
        library = self.kind == "merges" and self.source == "json"
        return (HELD_BY_LIBRARY if library else HELD[self.kind]) * self.tokens + MERGE * self.merges

    @property
    def read(self) -> int:
        """Bytes that reading it takes besides."""
        return READ_MERGE[self.source] * self.merges if self.merges else READ_TOKEN * self.tokens


def assumed(tokens: int) -> VocabularySize:
    """Of a model of which no vocabulary is known: as many merges as tokens, which is usual, and takes most."""
    return VocabularySize(kind="merges", tokens=tokens, merges=tokens, source="json")


def vocabulary_size(known: Outline) -> VocabularySize:
    """The vocabulary of a model on this machine, by the header of its GGUF file or its tokenizer.json; else as `assumed`."""
    metadata = known.metadata
    if (kind := _GGUF.get(metadata.get("tokenizer.ggml.model"))) is not None:
        merges = len(metadata.get("tokenizer.ggml.merges", ())) if kind == "merges" else 0
        return VocabularySize(kind=kind, tokens=len(metadata["tokenizer.ggml.tokens"]), merges=merges)
    if known.path is not None and (file := known.path / "tokenizer.json").is_file():
        merges = len(read_object(file).get("model", {}).get("merges") or ())
        kind = "merges" if merges else "words"
        return VocabularySize(kind=kind, tokens=known.spec.vocab_size, merges=merges, source="json")
    return assumed(known.spec.vocab_size)
