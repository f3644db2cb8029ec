"""`Tokenizer`: text to token ids and back."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import index
from pathlib import Path
from typing import Any

from ordito.errors import TokenizerError
from ordito.text.stream import Detokenizer
from ordito.text.vocabulary import Vocabulary, ends

GUARD = "\ue0ff"
"""A private-use character inserted into a user's text where it would spell a control token; see `guarded`."""


@dataclass(frozen=True)
class Special:
    """The tokens of roles; `prefix` and `suffix` are added to every text (BOS, or [CLS] and [SEP])."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None
    unk: int | None = None
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


class Tokenizer:
    """A vocabulary and its encoder.

    `cut(text, parse_special)` gives the ids of a text without the prefix and suffix of every text. `strips_space`: the first
    space of a decoded text was added by the encoder and is removed. `write(folder, tokenizer)` writes the files of
    `to_folder`. `engine` is the encoder for conversion to other formats: a `ByteLevel`, `Scored` pieces, or a tokenizer of
    the `tokenizers` library.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        cut: Callable[[str, bool], list[int]],
        special: Special,
        *,
        strips_space: bool = False,
        chat_template: str | None = None,
        write: Callable[[Path, Tokenizer], None],
        engine: Any,
    ) -> None:
        self.vocabulary, self.special, self.chat_template = vocabulary, special, chat_template
        self.strips_space = strips_space
        self._cut, self._write, self.engine = cut, write, engine

    @staticmethod
    def from_folder(folder: Path) -> Tokenizer:
        """The tokenizer of a folder in the Hugging Face layout. Raises `TokenizerError` if there is none that we read."""
        from ordito.text.from_folder import read_folder

        return read_folder(Path(folder))

    @staticmethod
    def from_gguf(metadata: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer in a GGUF file's metadata. Raises `TokenizerError` if there is none that we read."""
        from ordito.text.from_gguf import read_metadata

        return read_metadata(metadata)

    def to_folder(self, folder: Path) -> None:
        """Write what transformers reads the same tokenizer from: the files it was read from, or tokenizer.json."""
        self._write(Path(folder), self)

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return len(self.vocabulary.tokens)

    @property
    def bos_id(self) -> int | None:
        """The token that begins a text."""
        return self.special.bos

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text."""
        return self.special.eos

    @property
    def pad_id(self) -> int | None:
        """The padding token."""
        return self.special.pad

    @property
    def unk_id(self) -> int | None:
        """The token for text that no other token spells."""
        return self.special.unk

    @property
    def special_ids(self) -> frozenset[int]:
        """Every control token."""
        return self.vocabulary.control

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: the end of text, and the control tokens that are known to end a turn."""
        named = ends({self.token(id) for id in self.special_ids})
        found = {id for id in self.special_ids if self.token(id) in named}
        return frozenset(found | ({self.eos_id} if self.eos_id is not None else set()))

    def id_of(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it, or None."""
        return self.vocabulary.ids.get(token)

    def token(self, id: int) -> str:
        """The token of an id, as the vocabulary spells it."""
        return self.vocabulary.token(id)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to a text; none for a control token."""
        return b"" if id in self.special_ids else self.vocabulary.bytes_of(id)

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = False) -> list[int]:
        """Token ids of `text`.

        `add_special_tokens` adds the prefix and suffix of every text (BOS, or [CLS] and [SEP]). Only with `parse_special`
        does text that spells a control token become that token: leave it off for text of users. Raises `TokenizerError` for
        anything but a string, and for text that is not valid Unicode (lone surrogates).
        """
        if not isinstance(text, str):
            raise TokenizerError(f"the text is of type {type(text).__name__}, expected a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise TokenizerError(f"the text has half a character (a lone surrogate) at {error.start}: remove it") from None
        ids = self._cut(text, parse_special)
        return [*self.special.prefix, *ids, *self.special.suffix] if add_special_tokens else ids

    def least(self, text: str) -> int:
        """A lower bound of a text's number of tokens, without encoding it; 0 if one token may spell a text of any length."""
        if self.vocabulary.kind != "byte-level":
            return 0
        return len(text.replace(GUARD, "").encode("utf-8", "replace")) // self._longest

    @cached_property
    def _longest(self) -> int:
        """UTF-8 bytes of the longest token's spelling, in which each byte that it stands for is one character."""
        return max(len(token.encode("utf-8", "replace")) for token in self.vocabulary.tokens)

    def encode_chat(self, rendered: str) -> list[int]:
        """Token ids of a rendered conversation. Control tokens are parsed, but not across a `GUARD`; BOS is added only once."""
        parts = rendered.split(GUARD)
        ids = [id for part in parts for id in self.encode(part, add_special_tokens=False, parse_special=True)]
        prefix = self.special.prefix
        return ids if ids[: len(prefix)] == list(prefix) else [*prefix, *ids]

    def guarded(self, text: str) -> str:
        """`text` with a `GUARD` inside whatever spells a control token, so that `encode_chat` takes it for plain text."""
        names, lengths, firsts = self._control_names
        parts, done = [], 0
        for found in firsts.finditer(text):
            place = found.start()
            if any(text[place : place + length] in names for length in lengths):
                parts.append(text[done : place + 1])
                done = place + 1
        return GUARD.join([*parts, text[done:]])

    @cached_property
    def _control_names(self) -> tuple[frozenset[str], list[int], re.Pattern[str]]:
        """The control tokens' spellings, their lengths, and a pattern of their first characters."""
        names = frozenset(token for id in self.special_ids if len(token := self.token(id)) > 1)
        firsts = "".join(sorted({re.escape(name[0]) for name in names}))
        return names, sorted(set(map(len, names))), re.compile(f"[{firsts}]" if firsts else "(?!)")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids; invalid UTF-8 becomes U+FFFD. Raises `TokenizerError` for anything but a list of such ids."""
        spelled = self.token_bytes if skip_special_tokens else self.vocabulary.bytes_of
        try:
            whole = [index(id) for id in ids]
        except TypeError:
            raise TokenizerError(f"the token ids are {ids!r:.80}, expected a list of whole numbers") from None
        text = b"".join(map(spelled, whole)).decode("utf-8", "replace")
        text = text.removesuffix(" ") if self._ends_in_space else text
        return text.removeprefix(" ") if self.strips_space else text

    def streamer(self) -> Detokenizer:
        """A streaming detokenizer for one answer, which leaves out control tokens."""
        return Detokenizer(self.token_bytes, self.strips_space, self._ends_in_space)

    @property
    def _ends_in_space(self) -> bool:
        """Whether tokens that end a word include the space behind it (GPT-1), which is removed at the end of a text."""
        return self.vocabulary.kind == "word-ends"
