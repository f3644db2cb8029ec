"""Records of classification, text pairs and multiple choice, and their input formats as token sequences (GPT-1)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ordito.errors import OrditoError, OrditoWarning
from ordito.text.tokenizer import Tokenizer
from ordito.train.data.formats import text_of
from ordito.train.examples import Text
from ordito.train.task import Record

PAIRS = (("premise", "hypothesis"), ("text_a", "text_b"), ("sentence1", "sentence2"))
"""Fields of a record that hold two texts."""
CONTEXTS = ("context", "premise", "question")
"""Fields that precede a choice, joined in this order if the record has several."""
SEPARATORS = ("[SEP]", "<sep>", "<|sep|>", "<$>")
"""Control tokens that serve as the delimiter, if the vocabulary has one of them."""
MOST_CLASSES = 1000
UNKNOWN = "-1"
"""The label that published data sets give to examples without one."""

_MOST = float(np.finfo(np.float32).max)

Parts = tuple[str, ...]
"""The parts of one input, which the delimiter separates."""


@dataclass(frozen=True)
class Frame:
    """[start] part ([delimiter] part) [extract], at most `length` tokens (GPT-1, Radford et al. 2018, section 3.3)."""

    tokenizer: Tokenizer
    start: Sequence[int]
    delimiter: Sequence[int]
    extract: Sequence[int]
    length: int

    def text(self, parts: Parts) -> Text:
        """The token sequence of `parts`, all of it with a loss for the auxiliary language model.

        If it is too long, the longest part is truncated, with a warning. Raises `OrditoError` if the parts do not fit at all.
        """
        encoded = [self.tokenizer.encode(part, add_special_tokens=False) for part in parts]
        room = self.length - len(self.start) - len(self.extract) - len(self.delimiter) * (len(parts) - 1)
        if room < len(parts):
            raise OrditoError(f"does not fit into {self.length} tokens with those around it: set a greater length")
        if sum(map(len, encoded)) > room:
            warnings.warn(
                f"texts of more than {self.length} tokens are cut, the longest part first (length= sets it)",
                OrditoWarning,
                stacklevel=2,
            )
        for _ in range(sum(map(len, encoded)) - room):
            max(encoded, key=len).pop()
        ids = [*self.start, *encoded[0]]
        for later in encoded[1:]:
            ids += [*self.delimiter, *later]
        return Text.of([*ids, *self.extract])


def frame(
    kind: str, tokenizer: Tokenizer, length: int, start: str | None, delimiter: str | None, extract: str | None, *, pairs: bool
) -> Frame:
    """The frame with the named tokens, or with those of the tokenizer where none is named.

    The tokenizer's start token is the prefix that it adds to every text, else BOS, else none. Its extract token is the suffix
    that it adds, else EOS. Its delimiter, which only `pairs` need, is that suffix ([SEP]), else one of `SEPARATORS`. Raises
    `OrditoError` if a token that is needed does not exist.
    """
    special = tokenizer.special
    starts = special.prefix or (() if special.bos is None else (special.bos,))
    ends = special.suffix or (() if special.eos is None else (special.eos,))
    separators = [tokenizer.id_of(name) for name in SEPARATORS]
    between = special.suffix or tuple(id for id in separators if id in tokenizer.special_ids)[:1]

    def chosen(role: str, name: str | None, own: Sequence[int | None], needed: bool) -> list[int]:
        if name is not None:
            return [_id(tokenizer, f"{kind}.{role}", name)]
        if needed and not own:
            raise OrditoError(
                f"the tokenizer has no token for the {role} of {kind}: name one of its tokens, --set {kind}.{role}=TOKEN, "
                "or add one to the vocabulary (new_tokens) and name it"
            )
        return [id for id in own if id is not None]

    return Frame(
        tokenizer,
        chosen("start", start, starts, False),
        chosen("delimiter", delimiter, between, pairs),
        chosen("extract", extract, ends, True),
        length,
    )


def _id(tokenizer: Tokenizer, setting: str, name: str) -> int:
    found = tokenizer.id_of(name)
    spelled = tokenizer.encode(name, add_special_tokens=False) if found is None else [found]
    if len(spelled) != 1:
        raise OrditoError(f"{setting} is {name!r}, which is {len(spelled)} tokens, expected one token of the vocabulary")
    return spelled[0]


def one_text(record: Record) -> list[Parts]:
    """The text of a record {"text"}."""
    return [(text_of(record, "text"),)]


def a_pair(record: Record) -> list[Parts]:
    """The two texts of a record, in their order. Raises `OrditoError` if it has not the fields of `PAIRS`."""
    for names in PAIRS:
        if all(name in record for name in names):
            return [tuple(text_of(record, name) for name in names)]
    raise OrditoError(f"has no two texts, expected {', or '.join(' and '.join(names) for names in PAIRS)}")


def both_orders(record: Record) -> list[Parts]:
    """The two texts of a record, in both orders: similarity is symmetric."""
    ((a, b),) = a_pair(record)
    return [(a, b), (b, a)]


def each_choice(record: Record) -> list[Parts]:
    """The context with each of {"choices": [...]}, or of choice1 and choice2 (COPA, XCOPA)."""
    context = " ".join(text_of(record, name) for name in CONTEXTS if name in record)
    choices = record.get("choices", [record[name] for name in ("choice1", "choice2") if name in record])
    if not context or not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) for one in choices):
        raise OrditoError(f"is no choice, expected one of {', '.join(CONTEXTS)}, and two or more texts as choices")
    return [(context, choice) for choice in choices]


def label_of(record: Record) -> str:
    """The label of a record as text. Raises `OrditoError` if it has none, or `UNKNOWN`."""
    label = record.get("label", record.get("score"))
    if label is None or str(label) == UNKNOWN:
        raise OrditoError(f"has no label: got {label!r} under 'label', leave such records out")
    return str(label)


def score_of(record: Record) -> float:
    """The score or label of a record as a number. Raises `OrditoError` if it is none, or not finite in fp32."""
    label = record.get("score", record.get("label"))
    if isinstance(label, bool) or not isinstance(label, int | float) or not abs(label) <= _MOST:
        raise OrditoError(f"has no score: got {label!r:.50} under 'score' or 'label', expected a finite number")
    return float(label)


def choice_of(record: Record) -> float:
    """The index of the right choice, from 0; the label may also be the text of that choice. Raises `OrditoError` otherwise."""
    texts, label = [choice for _, choice in each_choice(record)], record.get("label")
    if label in texts:
        return float(texts.index(label))
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < len(texts):
        raise OrditoError(f"has the label {label!r}, expected a choice, or its number from 0 to {len(texts) - 1}")
    return float(label)


def classes_of(records: Iterable[tuple[str, Record]]) -> tuple[str, ...]:
    """The distinct labels of (place, record) pairs, sorted: numbers first, by value, then texts.

    Raises `OrditoError` for a record without a label, and for fewer than two or more than `MOST_CLASSES` classes.
    """
    found: set[str] = set()
    for place, record in records:
        try:
            found.add(label_of(record))
        except OrditoError as error:
            raise OrditoError(f"{place}: {error}") from None
        if len(found) > MOST_CLASSES:
            raise OrditoError(f"the data has more than {MOST_CLASSES} labels, expected classes: is the label a score?")
    if len(found) < 2:
        raise OrditoError(f"the data has the labels {sorted(found)}, expected at least two classes")
    return tuple(sorted(found, key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name)))
