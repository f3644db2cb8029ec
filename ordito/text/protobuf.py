"""The wire format of protocol buffers, as far as a SentencePiece model needs it.

A message is a sequence of fields: a key (number and wire type as one varint), then a varint, 4 bytes, 8 bytes, or a length and
that many bytes. No memory is allocated by an unchecked number of the file. Source: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

from ordito.errors import TokenizerError

Value = int | bytes
"""A varint, or the bytes of any other field."""


def fields(message: bytes) -> Iterator[tuple[int, Value]]:
    """Number and value of each field. Raises `TokenizerError` if the message is truncated or has a deprecated group."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == 2:
            size, place = _varint(message, place)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise TokenizerError(f"a protocol buffer has wire type {wire} before byte {place}, expected 0, 1, 2 or 5")
        if size > len(message) - place:
            raise TokenizerError(f"a protocol buffer breaks off: {size:,} bytes from {place:,} on, of {len(message):,}")
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """The varint at `place` and the position behind it: 7 bits per byte, lowest first, the high bit set if more follow."""
    value = 0
    for i, byte in enumerate(message[place : place + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value & (1 << 64) - 1, place + i + 1
    raise TokenizerError(f"a protocol buffer has a number that does not end, at byte {place:,}")
