"""Truncating and splitting examples that are longer than a row, and counts of both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isnan

from ordito.train.examples import Example, Text

_LARGE_SHARE = 0.05


@dataclass
class Counts:
    """Counts of a data set: records `read`; examples `kept`, `cut` (truncated), `split` and `left_out`; `tokens` in those kept,
    and how many of them are `learned`, that is, have a loss."""

    read: int = 0
    kept: int = 0
    cut: int = 0
    split: int = 0
    left_out: int = 0
    tokens: int = 0
    learned: int = 0

    @property
    def said(self) -> str:
        """The counts in a clause."""
        aside = ((self.cut, "cut"), (self.split, "split"), (self.left_out, "left out"))
        done = ", ".join(f"{count:,} {what}" for count, what in aside if count)
        made = f"{self.kept:,} examples of {self.read:,} records{f' ({done})' if done else ''}"
        return f"{made}, {self.tokens:,} tokens, {self.learned:,} of them learned"

    def warnings(self, length: int) -> list[str]:
        """Sentences for the user where many examples are truncated or left out."""
        examples = max(self.kept + self.left_out, 1)
        said = []
        if self.cut / examples >= _LARGE_SHARE:
            said.append(
                f"{self.cut / examples:.0%} of the examples are cut at {length} tokens, so that their ends are never learned; "
                "a larger length keeps them"
            )
        if self.left_out / examples >= _LARGE_SHARE:
            said.append(
                f"{self.left_out / examples:.0%} of the examples are left out: nothing of them would be learned within "
                f"{length} tokens"
            )
        return said


@dataclass(frozen=True)
class Cutter:
    """Fits examples into rows of `length` tokens.

    With `packs`, several examples share a row. The texts of an example without a label then become examples of their own,
    because the losses of their tokens do not depend on each other; with a label they stay together in one row, and the longest
    is truncated first. Without `packs`, each text has a row. `split_long`: a text that is too long is split, not truncated.
    """

    length: int
    packs: bool
    split_long: bool

    def fit(self, example: Example, counts: Counts) -> Iterator[Example]:
        """The example within `length`, or its parts; none if nothing learned is left. Adds to `counts`."""
        texts_apart = self.packs and isnan(example.label)
        for whole in [replace(example, texts=(text,)) for text in example.texts] if texts_apart else [example]:
            splits = self.split_long and len(whole.texts) == 1 and isnan(whole.label) and len(whole.texts[0]) > self.length
            counts.split += splits
            for part in split(whole.texts[0], self.length) if splits else [None]:
                fitted = replace(whole, texts=(part,)) if part is not None else self._cut(whole)
                if not _teaches(whole, fitted):
                    counts.left_out += 1
                    continue
                counts.kept += 1
                counts.cut += not splits and fitted is not whole
                counts.tokens += sum(map(len, fitted.texts))
                counts.learned += sum(int(text.learn.sum()) for text in fitted.texts)
                yield fitted

    def _cut(self, example: Example) -> Example:
        lengths = [len(text) for text in example.texts]
        most = equal_share(lengths, self.length) if self.packs else self.length
        if max(lengths, default=0) <= most:
            return example
        return replace(example, texts=tuple(_part(text, 0, most) for text in example.texts))


def split(text: Text, length: int) -> list[Text]:
    """Parts of at most `length` tokens; each begins with the last token of the part before.

    The first token of a part has no loss, so every token of the text is learned once.
    """
    return [_part(text, begin, begin + length) for begin in range(0, max(len(text) - 1, 1), length - 1)]


def equal_share(lengths: Sequence[int], room: int) -> int:
    """The largest length such that texts truncated to it have at most `room` tokens together."""
    for number, length in enumerate(sorted(lengths)):
        share = room // (len(lengths) - number)
        if length > share:
            return share
        room -= length
    return max(lengths, default=0)


def _part(text: Text, begin: int, end: int) -> Text:
    part = slice(begin, end)
    return Text(text.ids[part], text.learn[part].copy(), {name: array[part] for name, array in text.extra.items()})


def _teaches(whole: Example, fitted: Example) -> bool:
    """Whether a fitted example has something to learn, and each text that had learned tokens still has some."""
    if not fitted.texts or not all(map(len, fitted.texts)):
        return False
    if not isnan(fitted.label):
        return True
    learned = [bool(text.learn.any()) for text in fitted.texts]
    if len(learned) == 1:
        return learned[0]
    # Texts that are compared may have no learned tokens at all.
    return all(after or not text.learn.any() for text, after in zip(whole.texts, learned, strict=True))
