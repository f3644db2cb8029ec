"""The base class of the parsers of answers: token ids to parts."""

from __future__ import annotations

import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence, Set

from ordito.text.answers.parts import Arguments, Call, Part, Said, Thought
from ordito.text.stream import StopStrings
from ordito.text.tokenizer import Tokenizer

_ID_CHARACTERS = string.ascii_letters + string.digits


class AnswerReader(ABC):
    """Parses one answer, token by token; the result does not depend on how its text is divided into tokens.

    A marker that is a token is recognised by its id, so that text which spells it remains text. A stop string in the text for
    the user ends the answer, and is then in `stopped`. If the prompt has `begun` the answer, its first space is kept.
    """

    def __init__(self, tokenizer: Tokenizer, markers: Iterable[str], stops: Sequence[str], begun: bool = False) -> None:
        self.detokenizer, self.stops = tokenizer.streamer(), StopStrings(stops)
        if begun:
            self.detokenizer.strip = False
        self.marks = {id: marker for marker in markers if (id := _marker_id(tokenizer, marker)) is not None}
        self.control = {marker for id, marker in self.marks.items() if id in tokenizer.vocabulary.control}
        self.stopped: str | None = None
        self.silent = False  # no text for the user: everything but reasoning belongs to a call
        self.calls = 0
        self.parts: list[Part] = []

    @property
    @abstractmethod
    def thinking(self) -> bool:
        """Whether what comes next belongs to a thought."""

    @property
    def bound(self) -> bool:
        """Whether a grammar of the answer binds what comes next."""
        return not self.thinking

    def leading(self) -> Set[int]:
        """Tokens that may come next before the answer that a grammar binds: beside what the grammar allows, or, where it does
        not bind, instead of any others; none if there are no such tokens."""
        return frozenset()

    @abstractmethod
    def mark(self, marker: str) -> None:
        """A marker came as a token."""

    @abstractmethod
    def text(self, text: str) -> None:
        """Text came."""

    @abstractmethod
    def end(self, cut: bool) -> None:
        """No more comes: what was held back is what it looks like, but for a call that was `cut` off before it had a name."""

    def push(self, id: int) -> list[Part]:
        """Add a token; returns the parts that are complete now."""
        if id in self.marks:
            self.text(self.detokenizer.flush())
            self.mark(self.marks[id])
        else:
            self.text(self.detokenizer.push(id))
        return self._taken()

    def flush(self, cut: bool = False) -> list[Part]:
        """The rest, after the last token; `cut`: the answer was truncated."""
        self.text(self.detokenizer.flush())
        self.end(cut)
        self.out(Said(self.stops.flush()))
        return self._taken()

    def say(self, text: str) -> None:
        """Text for the user, up to the first stop string."""
        if self.stopped is None and not self.silent:
            shown, stopped = self.stops.push(text)
            self.out(Said(shown))
            self.stopped = self.stops.found if stopped else None

    def call(self, name: str) -> None:
        """A call begins."""
        self.out(Said(self.stops.flush()))
        self.out(Call(self.calls, new_call_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """More of the arguments of the last call."""
        self.out(Arguments(self.calls - 1, text))

    def out(self, part: Part) -> None:
        """Add a part, joined to the last one if that is of the same kind."""
        last = self.parts[-1] if self.parts else None
        if isinstance(part, Call):
            self.parts.append(part)
        elif isinstance(part, Said | Thought) and type(last) is type(part):
            self.parts[-1] = type(part)(last.text + part.text)
        elif isinstance(part, Arguments) and isinstance(last, Arguments) and last.index == part.index:
            self.parts[-1] = Arguments(part.index, last.text + part.text)
        elif part.text:
            self.parts.append(part)

    def _taken(self) -> list[Part]:
        parts, self.parts = self.parts, []
        return parts


def new_call_id() -> str:
    """A random id of a call: nine letters and digits, as Mistral's templates require."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))


def _marker_id(tokenizer: Tokenizer, marker: str) -> int | None:
    id, vocabulary = tokenizer.id_of(marker), tokenizer.vocabulary
    return id if id is not None and (id in vocabulary.control or id in vocabulary.added) else None
