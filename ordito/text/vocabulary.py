"""A vocabulary: its tokens, which of them are control tokens, and the bytes of each token."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ordito.errors import TokenizerError
from ordito.strings import Places, Strings

Kind = Literal["byte-level", "sentencepiece", "wordpiece", "word-ends"]
"""How tokens spell text; `word-ends` is GPT-1's spelling, with `</w>` at the end of each word."""

WORD_END = "</w>"

ENDS = frozenset(
    """<|eot_id|> <|im_end|> <|end|> <|return|> <|call|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT>
    <|end_of_text|> <eos> <｜end▁of▁sentence｜> <|eot|> <|eom|>""".split()
)
"""Control tokens that end an answer: llama.cpp's list, as far as the families here have them, and Llama 4's."""

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
# BERT's decoder writes no space before these.
_CLINGING = frozenset([".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"])


def ends(names: Set[str]) -> frozenset[str]:
    """The control tokens among `names` that end an answer.

    In gpt-oss's format `<|end|>` ends only one message of the several that an answer has; `<|return|>` ends the answer.
    """
    found = ENDS & names
    return found - {"<|end|>"} if found >= {"<|return|>", "<|call|>"} else found


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character -> byte: printable Latin-1 characters stand for themselves, others follow from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTES = byte_alphabet()


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. `control` tokens come from the model and templates only, never from users' text; `added` tokens are matched
    whole, before the text is split, and those in `lstrip` and `rstrip` with the white space before and behind them."""

    kind: Kind
    tokens: Sequence[str]
    control: frozenset[int] = frozenset()
    added: frozenset[int] = frozenset()
    lstrip: frozenset[int] = frozenset()
    rstrip: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not isinstance(self.tokens, Strings):
            object.__setattr__(self, "tokens", Strings(self.tokens))

    @cached_property
    def ids(self) -> Places:
        """Token -> id; of two equal tokens the first."""
        assert isinstance(self.tokens, Strings)
        return Places(self.tokens)

    def token(self, id: int) -> str:
        """The token as the vocabulary spells it. Raises `TokenizerError` for an id beyond it."""
        if not 0 <= id < len(self.tokens):
            raise TokenizerError(f"token id {id} is not in the vocabulary, expected 0 to {len(self.tokens) - 1}")
        return self.tokens[id]

    def bytes_of(self, id: int) -> bytes:
        """The bytes of a token in a text; a control token is spelled out, as a word where words are joined by spaces."""
        token = self.token(id)
        if id in self.control:
            return (" " * (self.kind == "wordpiece") + token).encode()
        if self.kind == "byte-level":
            if id in self.added or any(c not in BYTES for c in token):
                return token.encode()
            return bytes(BYTES[c] for c in token)
        if self.kind == "wordpiece":
            inside = token.startswith("##")
            return token[2:].encode() if inside else token.encode() if token in _CLINGING else b" " + token.encode()
        if self.kind == "word-ends":
            return (token.removesuffix(WORD_END) + " " if token.endswith(WORD_END) else token).encode()
        if _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        return token.replace("▁", " ").encode("utf-8", "replace")
