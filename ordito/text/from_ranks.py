"""Tokenizers from tiktoken's rank files: Llama 3 and 4 (`tokenizer.model`), Qwen 1 (`qwen.tiktoken`).

Each line of such a file has a token in base64 and its rank, which is its id. The pattern that splits text and the control
tokens, whose ids follow the last rank, are only in the code that was published with the model.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ordito.errors import TokenizerError
from ordito.text.byte_level import ByteLevel, spelled
from ordito.text.files import MAX_TOKENS, listed, read_lines
from ordito.text.pretokenizers import LLAMA3, O200K, QWEN2, PreTokenizer
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Vocabulary

MAX_RANKED = 1_024
"""Bytes of the longest token; published ones have at most 512. Reading takes quadratic time in it."""


@dataclass(frozen=True)
class Published:
    """The facts about a rank file that only the published code has; the ids of `control` tokens follow the last rank."""

    pre: PreTokenizer
    control: Sequence[str]
    roles: Mapping[str, str]


def _reserved(count: int, name: str = "", start: int = 0) -> list[str]:
    return [f"<|{name}reserved_special_token_{i}|>" for i in range(start, start + count)]


_LLAMA3 = [
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *_reserved(2),
    *("<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"),
    *_reserved(244, start=2),
]
_LLAMA4 = [
    *("<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>", "<|step|>"),
    *_reserved(6, "text_post_train_"),
    *("<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"),
    *_reserved(61, "text_post_train_", 8),
    *("<|image_start|>", "<|image_end|>"),
    *_reserved(2, "vision_"),
    *("<|tile_x_separator|>", "<|tile_y_separator|>"),
    *_reserved(4, "vision_", 2),
    *("<|image|>", *_reserved(1, "vision_", 6), "<|patch|>"),
    *_reserved(1041, "vision_", 7),
    *_reserved(8, "reasoning_"),
    *("<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"),
    *_reserved(904),
]
_QWEN1 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]

_META = {"bos": "<|begin_of_text|>", "eos": "<|end_of_text|>"}
PUBLISHED = {
    128_000: Published(PreTokenizer((LLAMA3,), ignore_merges=True), _LLAMA3, _META | {"pad": "<|finetune_right_pad_id|>"}),
    151_643: Published(PreTokenizer((QWEN2,), ignore_merges=True, nfc=True), _QWEN1, {"eos": "<|endoftext|>"}),
    200_000: Published(PreTokenizer((O200K,), ignore_merges=True), _LLAMA4, _META | {"pad": "<|finetune_right_pad|>"}),
}
"""Llama 3, Qwen 1 and Llama 4, by their numbers of ranks. Sources: the llama-models package; Qwen's tokenization_qwen.py."""


def is_ranks(data: bytes) -> bool:
    """Whether a `tokenizer.model` is a rank file, not a SentencePiece model."""
    token, space, rank = data[: 2 * MAX_RANKED].partition(b"\n")[0].rstrip().partition(b" ")
    return bool(token and space) and rank.isdigit()


def read_ranks(path: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a rank file. Raises `TokenizerError` for an unknown or damaged one."""
    ranks = dict(_rank(line, number, path) for number, line in enumerate(read_lines(path), 1) if line)
    if len(ranks) not in PUBLISHED:
        known = ", ".join(f"{n:,}" for n in PUBLISHED)
        raise TokenizerError(
            f"{path}: has {len(ranks):,} ranks, which is no published vocabulary that is known (those have {known}); "
            "convert it to a tokenizer.json"
        )
    published = PUBLISHED[len(ranks)]
    control = dict(enumerate(published.control, len(ranks)))
    # For later models a tokenizer_config.json gives names to reserved tokens.
    control |= {id: token.content for id, token in settings.added.items() if id >= len(ranks)}
    return ranked_tokenizer(ranks, control, published.pre, published.roles, settings, path)


def ranked_tokenizer(
    ranks: Mapping[bytes, int],
    control: Mapping[int, str],
    pre: PreTokenizer,
    roles: Mapping[str, str],
    settings: Settings,
    path: Path,
) -> Tokenizer:
    """A tokenizer of tokens, whose ids are their ranks, and control tokens. Every text begins with BOS, if there is one.

    Raises `TokenizerError` if ids collide or a byte has no token.
    """
    merges = {spelled(token): rank for token, rank in ranks.items()}
    ids = merges | {name: id for id, name in control.items()}
    if len(set(ids.values())) < len(ranks) + len(control):
        raise TokenizerError(f"{path}: two tokens have the same id or the same spelling")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise TokenizerError(f"{path}: the byte {missing[0]} has no token, expected one for each of the 256")
    vocabulary = Vocabulary("byte-level", listed(ids, str(path)), frozenset(control), frozenset(control))
    bos = settings.role("bos", roles.get("bos"))
    # tiktoken merges two neighbours if the merged token has a rank.
    special = settings.special(vocabulary, [ids.get(bos)] if bos else [], defaults=roles)
    return ByteLevel(vocabulary, merges, pre, between="").tokenizer(special, settings.chat_template)


def decoded(token: str, what: str) -> bytes:
    """The bytes of a token in base64. Raises `TokenizerError`."""
    try:
        found = base64.b64decode(token, validate=True)
    except (binascii.Error, ValueError):
        raise TokenizerError(f"{what} is {token[:40]!r}, expected a token in base64") from None
    if not 0 < len(found) <= MAX_RANKED:
        raise TokenizerError(f"{what} has {len(found):,} bytes, expected 1 to {MAX_RANKED:,}")
    return found


def _rank(line: str, number: int, path: Path) -> tuple[bytes, int]:
    token, _, rank = line.partition(" ")
    if not (rank.isascii() and rank.isdigit()) or len(rank) > 9 or int(rank) >= MAX_TOKENS:
        raise TokenizerError(f"{path}: line {number} is {line[:60]!r}, expected a token in base64 and its rank")
    return decoded(token, f"{path}: the token of line {number}"), int(rank)
