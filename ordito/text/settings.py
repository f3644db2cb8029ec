"""A tokenizer's settings in JSON files beside its vocabulary: class, added tokens, roles, switches, chat template."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from ordito.errors import TokenizerError
from ordito.text.files import MAX_TOKEN, MAX_TOKENS, read_object, read_text
from ordito.text.tokenizer import Special
from ordito.text.vocabulary import Vocabulary

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_CLASSES = {
    "bert": "BertTokenizer",
    "gemma": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "llama": "LlamaTokenizer",
    "openai-gpt": "OpenAIGPTTokenizer",
    "phi": "CodeGenTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}
"""`model_type` of config.json -> tokenizer class, for old folders that do not name the class."""


class Settings:
    """The settings of a folder: tokenizer_config.json, and the older files that it replaced."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_object(folder / "special_tokens_map.json") | read_object(folder / "tokenizer_config.json")

    @cached_property
    def tokenizer_class(self) -> str:
        """The tokenizer's class in transformers, without `Fast`; "" if unknown."""
        name = self.config.get("tokenizer_class")
        if not isinstance(name, str) or name in ("PreTrainedTokenizerFast", "TokenizersBackend"):
            model_type = read_object(self.folder / "config.json").get("model_type")
            name = _CLASSES.get(model_type, "") if isinstance(model_type, str) else ""
        return name.removesuffix("Fast")

    def flag(self, key: str, default: bool) -> bool:
        """The switch at `key`, or the default if it is missing."""
        value = self.config.get(key)
        return value if isinstance(value, bool) else default

    def role(self, name: str, default: str | None = None) -> str | None:
        """The token of a role such as `bos`, or None."""
        value = self.config.get(f"{name}_token", default)
        value = value.get("content") if isinstance(value, dict) else value
        return value if isinstance(value, str) else None

    @cached_property
    def control(self) -> frozenset[str]:
        """The tokens that the settings call special: those of roles, and additional ones."""
        found = {self.role(name) for name in _ROLES}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            others = self.config.get(key) or []
            for other in others.values() if isinstance(others, dict) else others if isinstance(others, list) else []:
                found.add(other.get("content") if isinstance(other, dict) else other)
        return frozenset(name for name in found if isinstance(name, str))

    @cached_property
    def added(self) -> dict[int, AddedToken]:
        """Id -> token, of the added tokens: new ones, and those of the vocabulary that are to be matched whole."""
        found: dict[int, AddedToken] = {}
        for id, token in self._added():
            content = token.get("content")
            if not isinstance(content, str) or not 0 < len(content) <= MAX_TOKEN or not 0 <= id < MAX_TOKENS:
                raise TokenizerError(
                    f"{self.folder}: an added token has the id {id:,} and is {str(content)[:40]!r}, expected a string "
                    f"of 1 to {MAX_TOKEN:,} characters with an id below {MAX_TOKENS:,}"
                )
            switches = {key: token.get(key) is True for key in ("lstrip", "rstrip", "single_word", "normalized")}
            special = token.get("special") is True or content in self.control
            found.setdefault(id, AddedToken(content, special=special, **switches))
        return found

    def _added(self) -> Iterator[tuple[int, dict[str, Any]]]:
        decoder = self.config.get("added_tokens_decoder")
        for key, token in decoder.items() if isinstance(decoder, dict) else ():
            if key.isascii() and key.isdigit() and len(key) < 10 and isinstance(token, dict):
                yield int(key), token
        for content, id in read_object(self.folder / "added_tokens.json").items():
            if type(id) is int:
                yield id, {"content": content}

    def tokens(self, vocabulary: Vocabulary, lstrip: Set[str] = frozenset()) -> list[AddedToken]:
        """The vocabulary's added tokens for the library. Those in `lstrip` also consume the white space before them."""
        roles = [value for value in self.config.values() if isinstance(value, dict)]
        lstrip = lstrip | {str(role.get("content")) for role in roles if role.get("lstrip") is True}
        found = self.added
        return [
            found.get(id) or AddedToken(name, special=id in vocabulary.control, lstrip=name in lstrip, normalized=False)
            for id in sorted(vocabulary.added)
            if (name := vocabulary.tokens[id])
        ]

    def special(
        self,
        vocabulary: Vocabulary,
        prefix: Sequence[int | None] = (),
        suffix: Sequence[int | None] = (),
        defaults: Mapping[str, str] | None = None,
    ) -> Special:
        """The tokens of roles; every text gets `prefix` and `suffix`, unless `add_bos_token` or `add_eos_token` change them.

        `defaults` are the tokens that the tokenizer's class gives to roles which the files do not name.
        """

        def id_of(role: str) -> int | None:
            token = self.role(role, (defaults or {}).get(role))
            return None if token is None else vocabulary.ids.get(token)

        bos, eos = id_of("bos"), id_of("eos")
        before, behind = ([id for id in ids if id is not None] for ids in (prefix, suffix))
        for key, role, ids in (("add_bos_token", bos, before), ("add_eos_token", eos, behind)):
            wanted = self.config.get(key)
            if wanted is True and role is not None and role not in ids:
                ids.append(role)
            elif wanted is False and role in ids:
                ids.remove(role)
        return Special(bos, eos, id_of("pad"), id_of("unk"), tuple(before), tuple(behind))

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template, of several the default one, or None."""
        if (path := self.folder / "chat_template.jinja").is_file():
            return read_text(path)
        template = read_object(self.folder / "chat_template.json").get("chat_template", self.config.get("chat_template"))
        if isinstance(template, list):
            named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
            template = named.get("default")
        return template if isinstance(template, str) else None
