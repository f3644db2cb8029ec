"""SentencePiece model files made by hand, and a compiled map of characters that the sentencepiece library made."""

from __future__ import annotations

import base64
import struct
import zlib

# "ﬁ" -> "fi", "Ａ" -> "A", "e" and U+0301 -> "é", tab -> space, U+0007 -> nothing, "…" -> "..."; `normalization_rule_tsv` of
# sentencepiece 0.2.3, compressed.
CHARSMAP = zlib.decompress(
    base64.b85decode(
        "c-ke?1*{iD00-cE4;W*E4QUyT(mYx^RgmtI9vuSGjexXDcXvHdx=}(2DFu;`W-z*2l<yC>ef!<6x4R2*LkOuth@U7#$~RFQ4$)yq0+spEA)#0r"
        "FN8QUHqxFpgh<x{<KxQ&`9k=>#Ka^e3CT%DN>cFQ`z^wb)6pTdv_wcldeV`R3}hw~AM+7e$wGFrk&_(cCKq{#!4X1U3Xq>d6r?bpP?RDRrx+zE"
        "L1{`+mNI-wIX>qzDo~z^d_iR@QI#rGry4b>L2YVLmpas^9t~+gBfg{wjcG<xTF{)9w2qAqtz|3P(uVf5qaz*oicWN)Ghfq{?sTIkJ?Kp@`qGE~"
        "^kX0c7|bAsL@u6T3}raqGLjLDW)x!?!}om0IDTLP<C(-nrZAalOl1bsnZ-=zFq?VIWdZY9#6p&^m}M+w1<P5*N>&rgkE~%WKe3*5Y-9tQ*~C`1"
        "u$^t}jJ!pDW*58pg}v<ISN5@=-#Ewte&-NJILtAQ@(0H`!JquaN&e;(XE@C{&T^iAxX1-AbBU{5i5L|XuE`r*=O*_{M1|Y(7I(Q5Y2zLbdB9^H"
        "@suY#=NT_~!E0XehJX2=|H8Y^7ZVfX8?<R3_O1wT0sW7S&H"
    )
)

NASTY = [
    "",
    " ",
    "  a",
    "a  ",
    "a\tb",
    "the warp",
    "ﬁne…",
    "ＡＡe\u0301e\u0302",
    "\x07",
    "a\x07 b",
    "日本",
    "👩‍👩‍👧",
    "▁a▁",
    "a\n\nb",
    "<sep>x <sep>",
    "<s></s>",
    "the<ctl>",
    "warp" * 40,
    "<0x41>",
    "é" * 9,
    "\x00",
    " \u3000 ",
]


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, value: int | bytes | float) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def model_file(pieces, *, model_type=1, byte_fallback=False, trained=b"", charsmap=b"", **switches) -> bytes:
    """`pieces`: text, score, type. `switches`: add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces."""
    numbers = {"add_dummy_prefix": 3, "remove_extra_whitespaces": 4, "escape_whitespaces": 5}
    normalizer = b"".join(field(numbers[name], int(value)) for name, value in switches.items())
    trainer = field(3, model_type) + field(35, int(byte_fallback)) + field(43, -1) + trained
    return (
        b"".join(field(1, field(1, text.encode()) + field(2, score) + field(3, type)) for text, score, type in pieces)
        + field(2, trainer)
        + field(3, field(1, b"made") + (field(2, charsmap) if charsmap else b"") + normalizer)
    )


SPECIAL = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<ctl>", 0.0, 3), ("<sep>", 0.0, 4)]
BYTES = [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
WORDS = "▁ t h e w a r p th he ▁t ▁the the ar rp arp ▁w ▁warp wa f i fi é A . ... < > b s".split()
PIECES = [*SPECIAL, *((word, -1.0 - (7 * i % 17) / 3, 1) for i, word in enumerate(WORDS))]
