"""Training a tokenizer: byte-level byte-pair encoding (arXiv:1508.07909) as in GPT-2; and the fertility of tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from ordito.errors import OrditoError, TokenizerError
from ordito.text.formats import FORMATS
from ordito.text.library import as_tokenizer_error, with_library
from ordito.text.pretokenizers import QWEN2
from ordito.text.tokenizer import Special, Tokenizer
from ordito.text.vocabulary import Vocabulary
from ordito.train.data.formats import conversation_of
from ordito.train.data.records import read_records

if TYPE_CHECKING:
    from ordito.train.task import Record

START, END, PAD = "<|startoftext|>", "<|endoftext|>", "<|pad|>"
TURN, TURN_END = "<|im_start|>", "<|im_end|>"
CONTROL = (PAD, START, END, TURN, TURN_END)
"""The control tokens of every tokenizer that is learned here; they have the first ids, padding is 0."""

PATTERN = QWEN2
"""The pre-tokenization pattern: GPT-4's as in Qwen 2, where every digit is a token by itself."""

_WORD = re.compile(r"\w+")
_LINES = re.compile(r"(?<=\n)(?=\S)")
_LONG = 1 << 16


def learn(texts: Iterable[str], vocab_size: int, special: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer of `vocab_size` tokens: control tokens (`CONTROL` and the `special` ones), the 256 bytes, and merges.

    Every text gets the start token; conversations are written as ChatML. The same texts give the same tokenizer. With little
    text there may be fewer tokens. Raises `TokenizerError` if the size leaves no room, a special token cannot be one, or there
    is no text.
    """
    control = [*CONTROL, *special]
    if len(set(control)) < len(control) or any(not token.strip() for token in special):
        raise TokenizerError(f"special tokens must be new and not empty, got {', '.join(special)} beside {', '.join(CONTROL)}")
    if vocab_size < 256 + len(control):
        raise TokenizerError(
            f"a vocabulary of {vocab_size} tokens has no room for the 256 bytes and {len(control)} control tokens"
        )
    texts = iter(texts)
    first = next(filter(None, texts), None)
    if first is None:
        raise TokenizerError("there is no text, expected some to learn the tokenizer from")
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=control,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with as_tokenizer_error("the tokenizer could not be learned"):
        library.train_from_iterator(_pieces(chain((first,), texts)), trainer)
    ids = library.get_vocab(with_added_tokens=True)
    tokens = sorted(ids, key=ids.__getitem__)
    known = frozenset(ids[token] for token in control)
    return with_library(
        Vocabulary("byte-level", tokens, known, known),
        library,
        Special(bos=ids[START], eos=ids[END], pad=ids[PAD], prefix=(ids[START],)),
        chat_template=FORMATS["chatml"].source,
    )


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts, long ones split where the pattern splits them anyway, so that all cores have something to do."""
    for text in texts:
        yield from _LINES.split(text) if len(text) > _LONG else (text,)


def texts_of(sources: Sequence[str], field: str = "text") -> Iterator[str]:
    """The texts of the records of files: `field` of each, or the contents of all messages of its conversation.

    Raises `OrditoError`, which names the place, for a record that has neither.
    """
    for place, record in read_records(sources):
        try:
            yield from _texts_of_record(record, field)
        except OrditoError as error:
            raise OrditoError(f"{place}: {error}") from None


def _texts_of_record(record: Record, field: str) -> Iterator[str]:
    if isinstance(text := record.get(field), str):
        yield text
        return
    for message in conversation_of(record)[0]:
        if isinstance(message.get("content"), str):
            yield message["content"]


@dataclass(frozen=True)
class Fertility:
    """Counts of a text: the fewer tokens per word, the more text fits into a context (arXiv:2012.15613, section 3.2)."""

    tokens: int
    words: int
    bytes: int

    @property
    def per_word(self) -> float:
        """Tokens per word; a word is a run of letters, digits and underscores."""
        return self.tokens / max(self.words, 1)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of UTF-8 per token."""
        return self.bytes / max(self.tokens, 1)


def fertility(texts: Iterable[str], tokenizers: Mapping[str, Tokenizer]) -> dict[str, Fertility]:
    """The fertility of tokenizers, by name, on the same texts, without the special tokens that are added to every text."""
    tokens = dict.fromkeys(tokenizers, 0)
    words = size = 0
    for text in texts:
        words += sum(1 for _ in _WORD.finditer(text))
        size += len(text.encode("utf-8", "surrogatepass"))
        for name, tokenizer in tokenizers.items():
            tokens[name] += len(tokenizer.encode(text, add_special_tokens=False))
    return {name: Fertility(count, words, size) for name, count in tokens.items()}
