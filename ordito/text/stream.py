"""Streaming detokenization: text that can be shown at once, without incomplete characters or parts of stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


class Detokenizer:
    """The text of tokens that arrive one by one.

    Invariant: all pieces joined are equal to decoding all ids at once, for any ids. `bytes_of` gives the bytes of a token;
    `strip` removes the text's first space, which SentencePiece adds, `strip_end` its last one, which GPT-1 adds.
    """

    def __init__(self, bytes_of: Callable[[int], bytes], strip: bool = False, strip_end: bool = False) -> None:
        self.bytes_of, self.strip, self.strip_end = bytes_of, strip, strip_end
        self.held = ""
        # Incomplete UTF-8 is held until its other bytes arrive; invalid UTF-8 becomes U+FFFD.
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Add a token; returns the text that is complete now."""
        return self._text(self.bytes_of(token_id), final=False)

    def flush(self) -> str:
        """The rest of the text, after the last token."""
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
    """Passes text on up to the first stop string; holds back an ending that may be the beginning of one.

    The output does not depend on how the text is divided into pieces. `found` is the stop string that ended it.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.found: str | None = None

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; returns the text that can be shown now, and whether a stop string has ended it."""
        self.held += text
        # The stop string that is complete first ends the text; of several, the one that begins first.
        found = [(place + len(stop), place, stop) for stop in self.stops if (place := self.held.find(stop)) >= 0]
        if found:
            _, place, self.found = min(found)
            shown, self.held = self.held[:place], ""
            return shown, True
        keep = max((self._begun(stop) for stop in self.stops), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown, False

    def flush(self) -> str:
        """The text held back, after the last piece."""
        shown, self.held = self.held, ""
        return shown

    def _begun(self, stop: str) -> int:
        """The number of characters at the end that may be the beginning of `stop`."""
        longest = min(len(stop) - 1, len(self.held))
        return next((n for n in range(longest, 0, -1) if self.held.endswith(stop[:n])), 0)
