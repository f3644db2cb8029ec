"""Answers in channels, as gpt-oss writes them: Harmony, github.com/openai/harmony/blob/main/docs/format.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence, Set

from ordito.text.answers.parts import Part, Thought
from ordito.text.answers.reader import AnswerReader
from ordito.text.answers.style import CHANNEL_MARKERS
from ordito.text.tokenizer import Tokenizer


class ChannelReader(AnswerReader):
    """Parses messages in channels: `analysis` is reasoning, a message to a function is a call, everything else is text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        begun: bool = False,
        tools: Collection[str] | None = None,
        stops: Sequence[str] = (),
    ) -> None:
        super().__init__(tokenizer, CHANNEL_MARKERS, stops, begun)
        self.tokenizer, self.tools = tokenizer, tools
        self.headed: list[int] = []  # the tokens of the header up to `<|channel|>`
        self.named: list[int] | None = None  # those behind it, None before it
        self.header: str | None = None if begun else ""  # what was read of a message's header, None inside a message
        self.channel = ""

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to a thought."""
        return self.header is None and self.channel == "analysis"

    @property
    def bound(self) -> bool:
        """Whether a grammar of the answer binds what comes next: messages that are no thoughts, with the part of their headers
        behind `<|channel|>`; of an answer that goes on, its text."""
        if self.header is None:
            return self.channel != "analysis"
        return self.named is not None and not self._thought_goes_on(self.named)

    def leading(self) -> Set[int]:
        """The tokens that continue a header up to `<|channel|>`, or that of a thought, before which there was none."""
        if self.header is not None and self.named is None:
            opening = self._opening
            read = next(n for n in range(len(opening) - 1, -1, -1) if not n or self.headed[-n:] == opening[:n])
            return {opening[read]}
        if self.named is None or self.channel or (self.named and not self._thought_goes_on(self.named)):
            return frozenset()
        return {self._encoded("analysis<|message|>")[len(self.named)]}

    @property
    def _opening(self) -> list[int]:
        """The tokens between the last message and the name of the next channel."""
        return self._encoded("<|end|><|start|>assistant<|channel|>" if self.channel else "<|channel|>")

    def _thought_goes_on(self, named: list[int]) -> bool:
        """Whether these are the first tokens of a thought's header, and more are needed."""
        return bool(named) and not self.channel and named == self._encoded("analysis<|message|>")[: len(named)]

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, parse_special=True)

    def push(self, id: int) -> list[Part]:
        """Add a token; returns the parts that are complete now."""
        parts = super().push(id)
        if self.header is None:
            self.headed, self.named = [], None
        elif self.named is not None:
            self.named.append(id)
        else:
            self.headed.append(id)
            opening = self._opening
            self.named = [] if self.headed[-len(opening) :] == opening else None
        return parts

    def mark(self, marker: str) -> None:
        """A marker came as a token."""
        if marker == "<|message|>" and self.header is not None:
            self._open(self.header)
        elif marker in ("<|channel|>", "<|constrain|>"):
            self.header = (self.header or "") + marker
        else:
            self.header = ""

    def text(self, text: str) -> None:
        """Text came."""
        if self.header is not None:
            self.header += text
        elif self.channel == "call":
            self.arguments(text)
        elif self.channel == "analysis":
            self.out(Thought(text))
        else:
            self.say(text)

    def end(self, cut: bool) -> None:
        """No more comes."""

    def _open(self, header: str) -> None:
        channel = re.search(r"<\|channel\|>\s*(\w+)", header)
        recipient = re.search(r"to=functions\.([\w.-]+)", header)
        self.header, self.channel = None, channel.group(1) if channel else "final"
        if recipient and self.tools is not None:
            self.channel = "call"
            self.call(recipient.group(1))
