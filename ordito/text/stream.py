"""Token ids -> text that can be shown at once: never half a character, never part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class Detokenizer:
    """Text of tokens that arrive one by one.

    Law: the pieces joined are what decoding all ids at once gives, for any ids. `bytes_of` gives the bytes that a token
    adds; `strip` says that the text's first space is a mark of the vocabulary and not text (SentencePiece), `strip_end` the
    same of its last space (GPT-1).
    """

    def __init__(self, bytes_of: Callable[[int], bytes], strip: bool = False, strip_end: bool = False) -> None:
        self.bytes_of, self.strip, self.strip_end = bytes_of, strip, strip_end
        self.held = ""
        # Incomplete UTF-8 waits for its other bytes; what can never be completed becomes U+FFFD.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that is certain now."""
        return self._text(self.bytes_of(token_id), final=False)

    def flush(self) -> str:
        """The rest, when no more tokens come."""
        return self._text(b"", final=True)

    def _text(self, data: bytes, final: bool) -> str:
        text = self.held + self.decoder.decode(data, final)
        self.held = " " if self.strip_end and text.endswith(" ") else ""
        text = text.removesuffix(self.held)
        if self.strip and text:
            self.strip = False
            text = text.removeprefix(" ")
        return text


class StopStrings:
    """Lets text through up to the first stop string; holds back an ending that may be the beginning of one.

    What comes out does not depend on how the text was cut into pieces. `found` is the stop string that ended it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has ended it."""
        self.held += text
        # The stop string that is complete first ends the text; of several, the one that began first.
        found = [(place + len(stop), place, stop) for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            _, place, self.found = min(found)
            shown, self.held = self.held[:place], ""
            return shown, True
        keep = max((self._begun(stop) for stop in self.stops), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        shown, self.held = self.held, ""
        return shown

    def _begun(self, stop: str) -> int:
        """How many characters at the end could be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self.held))
        return next((n for n in range(longest, 0, -1) if self.held.endswith(stop[:n])), 0)
