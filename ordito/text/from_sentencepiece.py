"""Tokenizers from SentencePiece's model files: LLaMA, Mistral, Gemma (`tokenizer.model`), T5, XLM-RoBERTa.

A file is a protocol buffer, `ModelProto` in sentencepiece_model.proto: pieces with scores and types, the settings of training
and of the normalization. T5 and XLM-RoBERTa number pieces differently: the source for that is the code of transformers.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ordito.errors import TokenizerError
from ordito.text.files import FILES, MAX_TOKEN, MAX_TOKENS, copy_files, read_bytes
from ordito.text.library import with_strips
from ordito.text.protobuf import Value, fields
from ordito.text.scored import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, Algorithm, Scored, scored_tokenizer
from ordito.text.sentencepiece import Normalization
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Vocabulary

_ALGORITHMS: dict[int, Algorithm] = {1: "unigram", 2: "bpe"}
_TRAINED = {"model_type": (3, 1), "suffix": (24, 0), "unk": (40, 0), "bos": (41, 1), "eos": (42, 2), "pad": (43, -1)}
_SWITCHES = {"add_dummy_prefix": (3, 1), "remove_extra_whitespaces": (4, 1), "escape_whitespaces": (5, 1)}
"""Fields of `TrainerSpec` and of `NormalizerSpec`: name -> (number, default)."""

_CLASS_OF_FILE = {"spiece.model": "T5Tokenizer", "sentencepiece.bpe.model": "XLMRobertaTokenizer"}
_FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
# Gemma's file has these as user-defined pieces, but they are control tokens.
_TURNS = frozenset(["<start_of_turn>", "<end_of_turn>"])


def read_sentencepiece(path: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a model file and the settings beside it. Raises `TokenizerError`."""
    scored, roles = parse(read_bytes(path), str(path))
    wanted = _CLASS_OF_FILE.get(path.name)
    name = (settings.tokenizer_class or wanted or "LlamaTokenizer").replace("MT5", "T5")
    if wanted and name != wanted:
        raise TokenizerError(f"{path}: the tokenizer_class is {name}, which has rules of its own; expected {wanted}")
    prefix, suffix = ["bos"], list[str]()
    if name == "XLMRobertaTokenizer":
        scored, suffix = _fairseq(scored), ["eos"]
        roles = dict(zip(("bos", "pad", "eos", "unk"), _FAIRSEQ, strict=True)) | {"mask": "<mask>"}
    elif name == "T5Tokenizer":
        scored, prefix, suffix = _with_sentinels(scored, settings, path), [], ["eos"]
    scored = _with_added(scored, settings)
    vocabulary = _vocabulary(scored, settings)
    roles |= {role: piece for role in (*prefix, *suffix) if (piece := settings.role(role))}
    before, behind = ([vocabulary.ids.get(roles.get(role, "")) for role in around] for around in (prefix, suffix))
    added = settings.tokens(vocabulary, {"<mask>"} if name == "XLMRobertaTokenizer" else frozenset())
    return scored_tokenizer(
        scored,
        with_strips(vocabulary, added),
        settings.special(vocabulary, before, behind, roles),
        inline=scored.ids(USER_DEFINED) - vocabulary.control - settings.added.keys(),
        marks_first_only=settings.config.get("legacy") is False,
        chat_template=settings.chat_template,
        write=lambda target, tokenizer: _copy(path, target),
    )


def _copy(path: Path, target: Path) -> None:
    copy_files(path.parent, target)
    if path.name not in FILES:  # tokenizer.model.v3
        shutil.copyfile(path, target / "tokenizer.model")


def parse(data: bytes, what: str) -> tuple[Scored, dict[str, str]]:
    """The pieces of a model file, and role -> piece. Raises `TokenizerError` for anything but such a file."""
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    specs: dict[int, bytes] = {}
    for number, value in _fields(data, what):
        if number == 1:
            piece, score, type = _piece(_message(value, what), what, len(pieces))
            pieces.append(piece)
            scores.append(score)
            types.append(type)
            if len(pieces) > MAX_TOKENS:
                raise TokenizerError(f"{what}: has more than {MAX_TOKENS:,} pieces")
        elif number in (2, 3):
            specs[number] = specs.get(number, b"") + _message(value, what)
    trained = _numbers(specs.get(2, b""), _TRAINED, what)
    if trained["model_type"] not in _ALGORITHMS:
        raise TokenizerError(f"{what}: its model_type is {trained['model_type']}, expected 1 (unigram) or 2 (BPE)")
    if not pieces:
        raise TokenizerError(f"{what}: there are no pieces, expected a SentencePiece model")
    switches = _numbers(specs.get(3, b""), _SWITCHES, what)
    charsmap = dict(_fields(specs.get(3, b""), what)).get(2, b"")
    normalization = Normalization(
        _message(charsmap, what),
        **{name: bool(value) for name, value in switches.items()},
        treat_whitespace_as_suffix=bool(trained["suffix"]),
    )
    unknown = next((id for id, type in enumerate(types) if type == UNKNOWN), None)
    scored = Scored(_ALGORITHMS[trained["model_type"]], pieces, scores, types, unknown, normalization)
    roles = {role: pieces[trained[role]] for role in ("unk", "bos", "eos", "pad") if 0 <= trained[role] < len(pieces)}
    return scored, {role: piece for role, piece in roles.items() if types[trained[role]] in (CONTROL, UNKNOWN)}


def _piece(message: bytes, what: str, id: int) -> tuple[str, float, int]:
    text, score, type = b"", 0.0, NORMAL
    for number, value in _fields(message, what):
        if number == 1:
            text = _message(value, what)
        elif number == 2 and isinstance(value, bytes) and len(value) == 4:
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            type = value
    piece = text.decode("utf-8", "replace")
    if not 0 < len(piece) <= MAX_TOKEN:
        raise TokenizerError(f"{what}: piece {id} has {len(piece):,} characters, expected 1 to {MAX_TOKEN:,}")
    return piece, score, type


def _numbers(message: bytes, known: dict[str, tuple[int, int]], what: str) -> dict[str, int]:
    """The numbers of a message by name; negative ones are written as 64-bit two's complement."""
    found = {number: value for number, value in _fields(message, what) if isinstance(value, int)}
    values = {name: found.get(number, default) for name, (number, default) in known.items()}
    return {name: value - (1 << 64) if value >> 63 else value for name, value in values.items()}


def _fields(message: bytes, what: str) -> Iterable[tuple[int, Value]]:
    try:
        yield from fields(message)
    except TokenizerError as error:
        raise TokenizerError(f"{what}: is no SentencePiece model that can be read ({error})") from None


def _message(value: Value, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise TokenizerError(f"{what}: is no SentencePiece model that can be read (a number where a message is expected)")
    return value


def _extended(scored: Scored, pieces: list[str], scores: list[float], types: list[int]) -> Scored:
    """The vocabulary with other pieces, scores and types."""
    unknown = next((id for id, type in enumerate(types) if type == UNKNOWN), None)
    return replace(scored, pieces=pieces, scores=scores, types=types, unknown=unknown)


def _fairseq(scored: Scored) -> Scored:
    """XLM-RoBERTa's numbering: fairseq's four tokens instead of the file's first three, and `<mask>` at the end."""
    return _extended(
        scored,
        [*_FAIRSEQ, *scored.pieces[3:], "<mask>"],
        [0.0] * 4 + [*scored.scores[3:], 0.0],
        [CONTROL, CONTROL, CONTROL, UNKNOWN, *scored.types[3:], CONTROL],
    )


def _with_sentinels(scored: Scored, settings: Settings, path: Path) -> Scored:
    """The vocabulary with T5's sentinels appended, the last one first."""
    count = settings.config.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count <= 10_000:
        raise TokenizerError(f"{path.parent}: extra_ids is {str(count)[:40]}, expected 0 to 10,000")
    names = [f"<extra_id_{i}>" for i in reversed(range(count))]
    return _extended(
        scored,
        [*scored.pieces, *names],
        [*scored.scores, *[0.0] * count],
        [*scored.types, *[CONTROL] * count],
    )


def _with_added(scored: Scored, settings: Settings) -> Scored:
    """The vocabulary with the added tokens of the settings; unassigned ids between are of the type UNUSED."""
    size = max(len(scored.pieces), max(settings.added, default=-1) + 1)
    more = size - len(scored.pieces)
    pieces, types = [*scored.pieces, *[""] * more], [*scored.types, *[UNUSED] * more]
    for id, token in settings.added.items():
        pieces[id] = token.content
        types[id] = types[id] if types[id] == UNKNOWN else CONTROL if token.special else USER_DEFINED
    return _extended(scored, pieces, [*scored.scores, *[0.0] * more], types)


def _vocabulary(scored: Scored, settings: Settings) -> Vocabulary:
    named = {id for id, piece in enumerate(scored.pieces) if piece in settings.control | _TURNS}
    control = frozenset(scored.ids(CONTROL, UNKNOWN) | named)
    return Vocabulary("sentencepiece", scored.pieces, control, frozenset(control | scored.ids(USER_DEFINED)))
