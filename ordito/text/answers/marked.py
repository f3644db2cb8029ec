"""Answers with reasoning and tool calls between markers: `<think>`, `<tool_call>` and the like."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

from ordito.text.answers.json_calls import Event
from ordito.text.answers.parts import Thought
from ordito.text.answers.reader import AnswerReader
from ordito.text.answers.style import Style
from ordito.text.tokenizer import Tokenizer


class MarkedReader(AnswerReader):
    """Parses answers by the markers of a `Style`. Markers that are not tokens are recognised by their text.

    `thinking`: the prompt ends inside reasoning (None: the answer may begin with some); `begun`: in the middle of text, or of
    that reasoning. `tools`: the names of the tools offered, or their schemas by name, None if calls are not parsed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        style: Style,
        *,
        thinking: bool | None = False,
        begun: bool = False,
        tools: Collection[str] | None = None,
        stops: Sequence[str] = (),
    ) -> None:
        super().__init__(tokenizer, style.markers, stops, begun)
        self.think, self.tools = style.think, style.tools if tools is not None else None
        self.offered = tools if isinstance(tools, Mapping) else dict.fromkeys(tools or ())
        self.state = "think" if thinking else "start" if (self.think or self.tools) and not begun else "say"
        self.may_think = thinking is None and not begun
        self.buffer = ""  # text that has not been parsed yet
        self.space = ""  # white space that is left out if nothing of its kind follows
        self.begun = begun  # a thought, or what is said, has its first character
        self.raw: str | None = None  # what may turn out to be no call; None once it is one
        self.said = ("", False)  # `space` and `begun` before it

    @property
    def thinking(self) -> bool:
        """Whether what comes next belongs to a thought."""
        return self.state == "think"

    def leading(self) -> Set[int]:
        """The token that opens a thought, where one may begin."""
        if not (self.think and self.may_think and self.state == "start"):
            return frozenset()
        return frozenset(id for id, marker in self.marks.items() if marker == self.think[0])

    def mark(self, marker: str) -> None:
        """A marker came as a token."""
        if self.state == "call" and not self.body.done:
            self.text(marker)  # inside a call it is what the call says, or what parts its name from its arguments
        else:
            if self.state != "start" or self.buffer.strip():
                self._settle()
            self.buffer = ""
            self._marked(marker)

    def text(self, text: str) -> None:
        """Text came."""
        self.buffer += text
        while self.buffer and self._advance():
            pass

    def end(self, cut: bool) -> None:
        """No more comes: what was held back is what it looks like, but for a call that was `cut` off before it had a name."""
        self._settle()
        if self.state == "call" and self.raw is None and not cut:
            self._told(self.body.end())
        if self.state == "call" and self.raw and not self.body.done and not (cut and self.sure):
            self._no_call("")
        if self.state == "say" and self.space and not self.calls:
            self.say(self.space)

    def _settle(self) -> None:
        text, self.buffer = self.buffer, ""
        if self.state == "think":
            self._think(text)
        elif self.state == "say" or (self.state == "start" and text):
            self._say(text)

    def _marked(self, marker: str) -> None:
        if self.think and marker == self.think[0] and self.state == "start":
            self._enter("think")
        elif self.think and marker == self.think[1] and self.state in ("think", "start"):
            self._enter("start")
        elif self.state == "think":
            self._think(marker)
        elif self.tools and marker in self.tools.begin:
            self._enter("call", marker)
        elif self.tools and marker == self.tools.opening:
            self.buffer = marker + self.buffer
            self._enter("call")
        elif self.tools and (marker in self.tools.skipped or (marker in self.tools.end and self.state == "call")):
            self._enter("say")
        elif self.tools or marker not in self.control:  # without tools, those of calls are left out like all others
            self._say(marker)

    def _enter(self, state: str, raw: str = "") -> None:
        if state == "call":
            self.said = (self.space, self.begun)
        self.state, self.space, self.begun = state, "", False
        self.may_think = self.may_think and state != "think"
        if state == "call":
            assert self.tools is not None
            self.body, self.raw, self.sure = self.tools.body(self.offered), raw, bool(raw)

    def _awaited(self) -> list[str]:
        """Markers that are known by their text and can stand here."""
        markers: list[str] = []
        if self.think and self.state in ("think", "start"):
            markers += self.think[1:] if self.state == "think" else self.think
        if self.tools and self.state != "think":
            markers += (*self.tools.begin, *self.tools.end, *self.tools.skipped)
            markers += [self.tools.opening] if self.tools.opening else []
        return [marker for marker in markers if marker not in self.marks.values()]

    def _advance(self) -> bool:
        """Take from the buffer what is certain; whether there may be more."""
        if self.state == "call":
            return self._after_call() if self.body.done else self._in_call()
        if self.state == "start":
            rest = self.buffer.lstrip()
            awaited = self._awaited()
            if not rest or any(marker.startswith(rest) and marker != rest for marker in awaited):
                return False
            if self.tools and rest[0] in self.tools.bare:
                self.buffer = rest
                self._enter("call")
            elif not any(rest.startswith(marker) for marker in awaited):
                self.state = "say"
                return True
        return self._until_marker()

    def _until_marker(self) -> bool:
        """Pass on the text before the next marker that is known by its text."""
        if self.state == "call":
            return True
        out, awaited = self._think if self.state == "think" else self._say, self._awaited()
        found = [(place, marker) for marker in awaited if (place := self.buffer.find(marker)) >= 0]
        if found:
            place, marker = min(found)
            before, self.buffer = self.buffer[:place], self.buffer[place + len(marker) :]
            if before.strip() or self.state != "start":
                out(before)
            self._marked(marker)
            return True
        held = max((_begun(self.buffer, marker) for marker in awaited), default=0)
        passed, self.buffer = self.buffer[: len(self.buffer) - held], self.buffer[len(self.buffer) - held :]
        out(passed)
        return False

    def _think(self, text: str) -> None:
        # Newlines around a thought belong to its markers.
        text = self.space + text if self.begun else text.lstrip("\n")
        kept = text.rstrip("\n")
        self.space = text[len(kept) :]
        self.begun = self.begun or bool(kept)
        self.out(Thought(kept))

    def _say(self, text: str) -> None:
        if self.state == "start":
            self.state = "say"
        if self.think and not self.begun and not self.space:
            text = text.lstrip()
        if self.tools:  # white space before a call belongs to it
            text = self.space + text
            kept = text.rstrip()
            text, self.space = kept, text[len(kept) :]
        self.begun = self.begun or bool(text)
        self.say(text)

    def _in_call(self) -> bool:
        c, self.buffer = self.buffer[0], self.buffer[1:]
        if self.raw is not None:
            self.raw += c
        try:
            events = self.body.push(c)
        except (ValueError, RecursionError):
            return self._no_call(c)
        if not self.sure and any(kind == "name" and text not in self.offered for kind, text in events):
            return self._no_call(c)
        self._told(events)
        return True

    def _told(self, events: Sequence[Event]) -> None:
        """Pass on the name or the arguments of a call."""
        for kind, text in events:
            if kind == "name":
                self.raw = None
                self.call(text)
            else:
                self.arguments(text)

    def _no_call(self, c: str) -> bool:
        """Treat what looked like a call as text; if its name has been emitted already, only what follows."""
        text, said = (c, ("", False)) if self.raw is None else (self.raw, self.said)
        self._enter("say")
        self.space, self.begun = said
        self._say(text)
        return True

    def _after_call(self) -> bool:
        """Behind a call: more of them, a closing marker, or text."""
        assert self.tools is not None
        rest = self.buffer.lstrip(" \t\r\n;`") if self.tools.loose else self.buffer.lstrip()
        awaited = [m for m in (*self.tools.end, *self.tools.begin, *self.tools.skipped) if m not in self.marks.values()]
        self.buffer = rest
        if not rest or any(marker.startswith(rest) and marker != rest for marker in awaited):
            return False
        if rest[0] in self.tools.bare:
            self._enter("call")
        elif marker := next((marker for marker in awaited if rest.startswith(marker)), None):
            self.buffer = rest[len(marker) :]
            self._marked(marker)
        else:
            self._enter("say")
        return True


def _begun(text: str, marker: str) -> int:
    """The number of characters at the end of `text` that may be the beginning of `marker`."""
    longest = min(len(marker) - 1, len(text))
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
