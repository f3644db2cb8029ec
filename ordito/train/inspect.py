"""The token microscope: training batches token by token, with their loss masks, and checks for common mistakes."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import ENDS
from ordito.train.batch import PADDING, Batch

if TYPE_CHECKING:
    from rich.text import Text as Line

ROWS = 4
"""Rows to show by default."""

_ROLE = re.compile(r"(user|human|assistant|model|bot|system|developer|tool|inst)")
_HEADER = re.compile(rf"\s*{_ROLE.pattern}\b")
_ASSISTANT = frozenset(["assistant", "model", "bot"])
_VISIBLE = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "␣"}
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Inspection:
    """Batches, the first rows of which `text` shows, and sentences about the problems found in them."""

    batches: Sequence[Batch]
    tokenizer: Tokenizer
    problems: tuple[str, ...]

    def text(self, colour: bool = False, rows: int = ROWS) -> str:
        """The first rows, token by token; with `colour`, for a terminal."""
        from rich.console import Console

        out = io.StringIO()
        console = Console(file=out, force_terminal=colour, color_system="standard" if colour else None, width=10_000)
        shown = ((batch, b) for batch in self.batches for b in range(len(batch.ids_BT)))
        for number, (batch, b) in zip(range(rows), shown, strict=False):
            for line in _row(number, batch, b, self.tokenizer):
                console.print(line, soft_wrap=True, highlight=False)
        return out.getvalue()


def inspect(batches: Batch | Sequence[Batch], tokenizer: Tokenizer, length: int | None = None) -> Inspection:
    """Check batches, with the tokenizer that encoded them.

    `length` is the row length at which texts were truncated; without it, the length of each batch.
    """
    listed = [batches] if isinstance(batches, Batch) else list(batches)
    texts = [text for batch in listed for text in _texts(batch, length)]
    problems = [problem for check in CHECKS for problem in check(texts, tokenizer)]
    return Inspection(listed, tokenizer, tuple(problems))


class TextView(NamedTuple):
    """A text of a batch: its ids (T,), its loss mask (T,), and whether it ends at the end of a full row.

    `labelled`: it is learned by the label of its example too, or by that alone.
    """

    ids: list[int]
    learn: list[bool]
    at_end: bool
    labelled: bool

    @property
    def all_learned(self) -> bool:
        """Whether every token but the first has a loss."""
        return len(self.ids) > 1 and all(self.learn[1:])


def _texts(batch: Batch, length: int | None) -> Iterator[TextView]:
    full = length or batch.ids_BT.shape[1]
    for example, label in zip(batch.places, batch.labels_E.tolist(), strict=True):
        for row, begin, end in example:
            ids, learn = batch.ids_BT[row, begin:end].tolist(), batch.learn_BT[row, begin:end].tolist()
            yield TextView(ids, learn, end == full, not isnan(label))


Texts = Sequence[TextView]


def _some(texts: Texts, wrong: Callable[[TextView], bool], what: str) -> Iterator[str]:
    """At most one sentence, for all texts that are `wrong`."""
    numbers = [number for number, text in enumerate(texts) if wrong(text)]
    if numbers:
        yield f"{what} in {len(numbers)} of {len(texts)} texts, first in text {numbers[0]}"


def no_end(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """No end token has a loss, so the model does not learn to stop."""

    def wrong(text: TextView) -> bool:
        learned = {id for id, learn in zip(text.ids, text.learn, strict=True) if learn}
        return bool(learned) and not (text.at_end or text.labelled or learned & tokenizer.end_ids)

    return _some(texts, wrong, "no token that ends an answer is learned, so the model will not learn to stop:")


def truncated(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """An answer is truncated at the row length. Texts that are learned whole are left out: they may be split on purpose."""

    def wrong(text: TextView) -> bool:
        return text.at_end and text.learn[-1] and not text.all_learned and text.ids[-1] not in tokenizer.end_ids

    return _some(texts, wrong, "the answer is cut off at the length of the row (set a greater length)")


def doubled_start(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """Two start tokens: one from the chat template, one from the tokenizer."""
    start = tokenizer.bos_id

    def wrong(text: TextView) -> bool:
        return start is not None and text.ids[:2] == [start, start]

    return _some(texts, wrong, "the start token stands twice")


def nothing_learned(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """A text without any loss."""
    return _some(texts, lambda text: not (any(text.learn) or text.labelled), "nothing is learned")


def leaked(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """Tokens of other roles than the assistant have a loss."""
    whole, part = [], []
    for text in texts:
        roles = roles_of(text.ids, tokenizer)
        others = [learn for role, learn in zip(roles, text.learn, strict=True) if role is not None and role not in _ASSISTANT]
        whole.append(bool(others) and text.all_learned)
        part.append(any(others) and not text.all_learned)
    yield from _marked(texts, whole, "every token of a conversation is learned, its prompts too,")
    yield from _marked(texts, part, "what others than the assistant say is learned")


def _marked(texts: Texts, marks: Sequence[bool], what: str) -> Iterator[str]:
    marked = {id(text) for text, mark in zip(texts, marks, strict=True) if mark}
    return _some(texts, lambda text: id(text) in marked, what)


def unknown(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """Unknown tokens: the vocabulary cannot spell the text."""
    return _some(texts, lambda text: tokenizer.unk_id is not None and tokenizer.unk_id in text.ids, "there are unknown tokens")


def repeated(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """Duplicate texts."""
    counts = Counter(tuple(text.ids) for text in texts)
    return _some(texts, lambda text: counts[tuple(text.ids)] > 1, "the same text stands more than once,")


def padded(texts: Texts, tokenizer: Tokenizer) -> Iterator[str]:
    """Padding tokens inside the text, where they are attended to."""
    pad = tokenizer.pad_id
    return _some(texts, lambda text: pad is not None and text.ids[-2:] == [pad, pad], "padding counts as part of the document")


CHECKS = (no_end, truncated, doubled_start, nothing_learned, leaked, unknown, repeated, padded)
"""The checks: each yields a sentence for each problem that it finds."""


def roles_of(ids: Sequence[int], tokenizer: Tokenizer) -> list[str | None]:
    """The role of each token of a conversation, as far as control tokens show it; None outside of turns.

    A role is named by a control token (`<|user|>`, `[INST]`) or follows one (`<|im_start|>user`), and lasts until the token
    that ends its turn.
    """
    roles: list[str | None] = []
    role: str | None = None
    for n, id in enumerate(ids):
        if id in tokenizer.special_ids:
            token = tokenizer.token(id)
            if id in tokenizer.end_ids or token in ENDS:
                roles.append(role)
                role = None
                continue
            named = _ROLE.search(token.lower())
            if named is None and role is None:
                named = _HEADER.match(tokenizer.decode(ids[n + 1 : n + 17], skip_special_tokens=False))
            if named is not None:
                role = "assistant" if token == "[/INST]" else named[1]
        roles.append(role)
    return roles


def _row(number: int, batch: Batch, b: int, tokenizer: Tokenizer) -> Iterator[Line]:
    """The lines of a row: a header, one line per document, and one per run of tokens with the same role and loss mask."""
    from rich.text import Text as Line

    ids, learn = batch.ids_BT[b].tolist(), batch.learn_BT[b].tolist()
    documents = batch.documents_BT[b].numpy()
    there = int((documents != PADDING).sum())
    yield Line(f"row {number}: {there} of {len(ids)} tokens, {sum(learn)} learned", "bold")
    ends = np.flatnonzero(np.diff(documents)) + 1
    for begin, end in zip([0, *ends], [*ends, len(ids)], strict=True):
        if documents[begin] == PADDING:
            yield Line(f"  padding: {end - begin}", "dim")
            continue
        yield Line(f"  document {documents[begin]}: {end - begin} tokens")
        roles = roles_of(ids[begin:end], tokenizer)
        tokens = zip(ids[begin:end], learn[begin:end], roles, strict=True)
        for (learned, role), stretch in groupby(tokens, lambda token: token[1:]):
            line = Line(f"    {'learned' if learned else 'given':8}{role or '':10}", "bold green" if learned else "dim")
            for k, (id, *_) in enumerate(stretch):
                line.append("│" if k else "", "dim")
                line.append(shown(id, tokenizer), _style(id, learned, tokenizer))
            yield line


def _style(id: int, learned: bool, tokenizer: Tokenizer) -> str:
    if id in tokenizer.end_ids:
        return "bold black on yellow" if learned else "yellow"
    if id == tokenizer.unk_id:
        return "bold red"
    if id in tokenizer.special_ids:
        return "bold magenta" if learned else "magenta"
    return "green" if learned else "default"


def shown(id: int, tokenizer: Tokenizer) -> str:
    """A token for display: white space as symbols, bytes that are not UTF-8 in hexadecimal."""
    data = tokenizer.vocabulary.bytes_of(id)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return f"⟨{data.hex(' ').upper()}⟩"
    return _UNSEEN.sub("�", "".join(_VISIBLE.get(character, character) for character in text))
