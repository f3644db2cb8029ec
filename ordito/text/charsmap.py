"""SentencePiece's compiled character maps, which normalise text before it is segmented into pieces.

A map (`precompiled_charsmap`) consists of the size of a double array in bytes, the array, and the replacements, each
terminated by a zero byte. The array is a trie over UTF-8 bytes: a unit of 32 bits holds its label (bits 0-7), whether a key
ends there (8), and the offset of its children (10-30, times 256 if bit 9 is set); the value unit of a key holds the offset of
its replacement.
Source: `darts.h` of Darts-clone; Kudo and Richardson, arXiv:1808.06226, section 3.
"""

from __future__ import annotations

import struct

from ordito.errors import TokenizerError

_KEY, _REPLACEMENT = 128, 1_024
"""Largest number of characters in a key and of bytes in its replacement (those of Unicode's normal forms have some twenty), in
case the trie of an untrusted map has cycles, or a replacement no end."""


class Charsmap:
    """Replaces the longest key of the map at each position of a text, and leaves other characters as they are."""

    def __init__(self, compiled: bytes) -> None:
        size = int.from_bytes(compiled[:4], "little")
        if size % 4 or not 0 < size <= len(compiled) - 4:
            raise TokenizerError(f"a character map of {len(compiled):,} bytes begins with a table of {size:,} bytes")
        self.units = struct.unpack_from(f"<{size // 4}I", compiled, 4)
        self.replacements = compiled[4 + size :]

    def replace(self, text: str) -> str:
        """The text with every key replaced, from left to right. Raises `TokenizerError` if the map is damaged."""
        parts: list[str] = []
        place = 0
        while place < len(text):
            length, replacement = self._longest(text, place)
            parts.append(replacement if length else text[place])
            place += length or 1
        return "".join(parts)

    def _longest(self, text: str, place: int) -> tuple[int, str]:
        """The number of characters of the longest key at `place` (0 if there is none), and its replacement."""
        found, value = 0, 0
        node = self._children(0)
        for end in range(place, min(len(text), place + _KEY)):
            ended = 0
            for byte in text[end].encode("utf-8"):
                node ^= byte
                unit = self._unit(node)
                if byte == 0 or unit & 0x8000_00FF != byte:
                    return found, self._replacement(value) if found else ""
                ended = unit & 0x100
                node ^= self._children(node)
            if ended:
                found, value = end + 1 - place, self._unit(node) & 0x7FFF_FFFF
        return found, self._replacement(value) if found else ""

    def _unit(self, place: int) -> int:
        if place >= len(self.units):
            raise TokenizerError(f"a character map leads to entry {place:,} of {len(self.units):,}")
        return self.units[place]

    def _children(self, place: int) -> int:
        unit = self._unit(place)
        return (unit >> 10) << ((unit & 0x200) >> 6)

    def _replacement(self, place: int) -> str:
        end = self.replacements.find(b"\0", place, place + _REPLACEMENT + 1)
        if end < 0:
            raise TokenizerError(f"a character map has no replacement of at most {_REPLACEMENT:,} bytes at byte {place:,}")
        return self.replacements[place:end].decode("utf-8", "replace")
