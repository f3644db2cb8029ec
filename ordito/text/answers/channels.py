"""Answers in channels, as gpt-oss writes them: Harmony, github.com/openai/harmony/blob/main/docs/format.md."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from ordito.text.answers.parts import Thought
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
        self.tools = tools
        self.header: str | None = None if begun else ""  # what was read of a message's header, None inside a message
        self.channel = ""

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to a thought."""
        return self.header is None and self.channel == "analysis"

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
