"""Tokenizers from `vocab.json` and `merges.txt`: GPT-2, RoBERTa, CodeGen (Phi-1, Phi-2), Qwen2, and GPT-1."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ordito.errors import TokenizerError, did_you_mean
from ordito.text.byte_level import library_of
from ordito.text.files import copy_files, listed, read_lines, read_object
from ordito.text.library import as_tokenizer_error, with_library
from ordito.text.pretokenizers import PRE_TOKENIZERS, PreTokenizer
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import WORD_END, Vocabulary


@dataclass(frozen=True)
class _Class:
    """What a tokenizer class of transformers implies: its pre-tokenizer (None: GPT-1's), the default tokens of roles, and
    whether every text is wrapped in CLS and SEP."""

    pre: PreTokenizer | None
    roles: dict[str, str] = field(default_factory=dict)
    wraps: bool = False


_GPT2 = _Class(PRE_TOKENIZERS["gpt-2"], dict.fromkeys(("bos", "eos", "unk"), "<|endoftext|>"))
_ROBERTA = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
CLASSES = {
    "CodeGenTokenizer": _GPT2,
    "GPT2Tokenizer": _GPT2,
    "OpenAIGPTTokenizer": _Class(None, {"unk": "<unk>"}),
    "Qwen2Tokenizer": _Class(replace(PRE_TOKENIZERS["qwen2"], nfc=True), dict.fromkeys(("eos", "pad"), "<|endoftext|>")),
    "RobertaTokenizer": _Class(PRE_TOKENIZERS["gpt-2"], _ROBERTA, wraps=True),
}
"""The supported classes, by their names in tokenizer_config.json."""


def read_merges(path: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a folder's vocab.json, with the merges.txt beside it."""
    name = settings.tokenizer_class
    if name not in CLASSES:
        raise TokenizerError(
            f"{path}: how text is cut depends on the tokenizer_class in tokenizer_config.json, which is {name!r}, "
            f"expected one of {', '.join(CLASSES)}{did_you_mean(name, CLASSES)}"
        )
    kind = CLASSES[name]
    ids = dict(read_object(path))
    listed(ids, str(path))
    ids |= {token.content: id for id, token in settings.added.items()}
    tokens = listed(ids, str(path))
    roles = {role: token for role in kind.roles if (token := settings.role(role, kind.roles[role]))}
    control = {id for token in {*roles.values(), *settings.control} if (id := ids.get(token)) is not None}
    control |= {id for id, token in settings.added.items() if token.special}
    added = frozenset(control | settings.added.keys())
    vocabulary = Vocabulary("byte-level" if kind.pre else "word-ends", tokens, frozenset(control), added)
    merges = _merges(path.with_name("merges.txt"))
    if kind.pre is None:
        library = _gpt1(ids, merges, roles["unk"], str(path))
    else:
        library = library_of(ids, merges, kind.pre)
        if settings.flag("add_prefix_space", False):
            library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    wraps = (ids.get(roles["cls"]), ids.get(roles["sep"])) if kind.wraps else (None, None)
    return with_library(
        vocabulary,
        library,
        settings.special(vocabulary, wraps[:1], wraps[1:], kind.roles),
        added=settings.tokens(vocabulary, {"<mask>"} if kind.wraps else frozenset()),
        chat_template=settings.chat_template,
        write=lambda target, tokenizer: copy_files(path.parent, target),
    )


def _gpt1(ids: dict[str, int], merges: list[tuple[str, str]], unknown: str, what: str) -> Library:
    """GPT-1's tokenizer: BPE on lower-cased words, split as BERT's, with `</w>` at their ends."""
    with as_tokenizer_error(f"{what}: the vocabulary does not hold together"):
        library = Library(models.BPE(ids, merges, unk_token=unknown, end_of_word_suffix=WORD_END))
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return library


def _merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of merges.txt, best first. Its first line may give a version."""
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        if not line or line.startswith("#version"):
            continue
        left, _, right = line.partition(" ")
        if not left or not right or " " in right:
            raise TokenizerError(f"{path}: line {number} is {line[:40]!r}, expected two tokens with a space between them")
        pairs.append((left, right))
    return pairs
