"""WordPiece tokenizers from `vocab.txt`, one token per line: BERT and its successors."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, normalizers, pre_tokenizers

from ordito.text.files import copy_files, listed, read_lines
from ordito.text.library import as_tokenizer_error, with_library
from ordito.text.settings import Settings
from ordito.text.tokenizer import Tokenizer
from ordito.text.vocabulary import Vocabulary

ROLES = {role: f"[{role.upper()}]" for role in ("unk", "sep", "pad", "cls", "mask")}
"""Role -> BERT's default token."""


def read_wordpieces(path: Path, settings: Settings) -> Tokenizer:
    """The tokenizer of a folder's vocab.txt."""
    ids = {token: id for id, token in enumerate(read_lines(path))} | {token.content: id for id, token in settings.added.items()}
    tokens = listed(ids, str(path))
    roles = {role: settings.role(role, name) or name for role, name in ROLES.items()}
    control = {id for token in {*roles.values(), *settings.control} if (id := ids.get(token)) is not None}
    control |= {id for id, token in settings.added.items() if token.special}
    vocabulary = Vocabulary("wordpiece", tokens, frozenset(control), frozenset(control | settings.added.keys()))
    lowercase = settings.flag("do_lower_case", True)
    with as_tokenizer_error(f"{path}: the vocabulary does not hold together"):
        library = Library(models.WordPiece(ids, unk_token=roles["unk"]))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", lowercase),
        lowercase=lowercase,
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    return with_library(
        vocabulary,
        library,
        settings.special(vocabulary, [ids.get(roles["cls"])], [ids.get(roles["sep"])], ROLES),
        added=settings.tokens(vocabulary),
        strips_space=True,
        chat_template=settings.chat_template,
        write=lambda target, tokenizer: copy_files(path.parent, target),
    )
