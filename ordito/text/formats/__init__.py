"""Prompt formats of the instruct families, for vocabularies that come without a template of their own.

Each format is written in the files beside this one, which render byte for byte what the published templates do, and is
recognised by the tokens that its family added to the vocabulary. Families name theirs in `Family.prompts`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files

Setting = str | bool | int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFormat:
    """How a conversation is written, and the tokens by which a vocabulary shows that it knows it.

    `files` are read one after another, the template last; `settings` are variables of theirs, for formats that differ
    only in words. Without `markers` a format cannot be recognised, only named: by a family, or by the user.
    """

    files: tuple[str, ...]
    markers: tuple[str, ...] = ()
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """The whole template, as text."""
        # JSON's strings, numbers and booleans are Jinja's, too.
        settings = (f"{{%- set {name} = {json.dumps(value)} -%}}\n" for name, value in self.settings.items())
        return "".join((*settings, *map(_read, self.files)))


@functools.cache
def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.jinja").read_text(encoding="utf-8")


_LLAMA3 = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
_LLAMA31 = (*_LLAMA3, "<|python_tag|>", "<|eom_id|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_CHATML = ("<|im_start|>", "<|im_end|>")
_PHI = ("<|user|>", "<|assistant|>", "<|end|>")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]")
_MISTRAL7 = (*_MISTRAL, "[SYSTEM_PROMPT]")
_DEEPSEEK = ("<｜User｜>", "<｜Assistant｜>")
_CAMOSCIO = (
    "Di seguito è riportata un'istruzione che descrive un task. Scrivete una risposta che completi adeguatamente la richiesta."
)
_ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
_SMOLLM2 = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

# Of two formats whose markers a vocabulary has, the earlier one is meant: the later one is what it grew from.
FORMATS: dict[str, ChatFormat] = {
    "harmony": ChatFormat(files=("harmony",), markers=("<|start|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>")),
    "llama-4": ChatFormat(files=("llama-tools", "llama-4"), markers=("<|header_start|>", "<|header_end|>", "<|eot|>")),
    "llama-3.1": ChatFormat(files=("llama-tools", "llama-3.1"), markers=_LLAMA31),
    "llama-3.2": ChatFormat(files=("llama-tools", "llama-3.1"), markers=_LLAMA31, settings={"today": True}),
    "llama-3": ChatFormat(files=("llama-3",), markers=_LLAMA3),
    "gemma-3": ChatFormat(files=("gemma",), markers=(*_GEMMA, "<start_of_image>"), settings={"folds_system": True}),
    "gemma": ChatFormat(files=("gemma",), markers=_GEMMA),
    "mistral-v13": ChatFormat(files=("mistral",), markers=(*_MISTRAL7, "[THINK]"), settings={"version": 13, "space": ""}),
    "mistral-v11": ChatFormat(files=("mistral",), markers=(*_MISTRAL7, "[CALL_ID]"), settings={"version": 11, "space": ""}),
    "mistral-v7-tekken": ChatFormat(files=("mistral",), markers=(*_MISTRAL7, "<pad>"), settings={"version": 7, "space": ""}),
    "mistral-v7": ChatFormat(files=("mistral",), markers=_MISTRAL7, settings={"version": 7, "space": " "}),
    "mistral-v3-tekken": ChatFormat(files=("mistral",), markers=(*_MISTRAL, "<pad>"), settings={"version": 3, "space": ""}),
    "mistral-v3": ChatFormat(files=("mistral",), markers=_MISTRAL, settings={"version": 3, "space": " "}),
    "phi-4": ChatFormat(files=("phi-4",), markers=(*_CHATML, "<|im_sep|>")),
    "phi-4-mini": ChatFormat(files=("phi-4-mini",), markers=(*_PHI, "<|tool|>")),
    "phi-3": ChatFormat(files=("phi-3",), markers=_PHI),
    "smollm2": ChatFormat(files=("chatml",), markers=(*_CHATML, "<jupyter_start>"), settings={"default_system": _SMOLLM2}),
    "qwen3": ChatFormat(files=("hermes", "qwen3"), markers=(*_CHATML, "<tool_call>", "<think>")),
    "qwen2.5": ChatFormat(files=("hermes", "qwen2.5"), markers=(*_CHATML, "<tool_call>")),
    "chatml": ChatFormat(files=("chatml",), markers=_CHATML),
    "qwen2": ChatFormat(
        files=("chatml",), markers=_CHATML, settings={"default_system": "You are a helpful assistant."}
    ),  # Qwen 1 as well
    "deepseek-v3.1": ChatFormat(files=("deepseek-v3.1",), markers=(*_DEEPSEEK, "<think>", "<｜search▁begin｜>")),
    "deepseek-r1": ChatFormat(files=("deepseek-v3",), markers=(*_DEEPSEEK, "<think>"), settings={"thinks": True}),
    "deepseek-v3": ChatFormat(files=("deepseek-v3",), markers=(*_DEEPSEEK, "<｜tool▁calls▁begin｜>")),
    "deepseek-v2": ChatFormat(files=("deepseek-v2",), markers=("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>")),
    "mistral-v1": ChatFormat(files=("mistral-v1",)),
    "llama-2": ChatFormat(files=("llama-2",)),
    "phi-2": ChatFormat(files=("phi-2",)),
    "alpaca": ChatFormat(
        files=("alpaca",), settings={"opening": _ALPACA, "instruction": "Instruction", "response": "Response"}
    ),
    "camoscio": ChatFormat(
        files=("alpaca",), settings={"opening": _CAMOSCIO, "instruction": "Istruzione", "response": "Risposta"}
    ),
    "fauno": ChatFormat(files=("fauno",)),
}


def format_for(tokens: Container[str], formats: Iterable[str] = FORMATS) -> str | None:
    """The first of `formats` all of whose markers are among the control and added `tokens` of a vocabulary, or None.

    An ordinary token that happens to be spelled like a marker proves nothing.

    >>> format_for({"<|im_start|>", "<|im_end|>"})
    'chatml'
    """
    for name in formats:
        markers = FORMATS[name].markers
        if markers and all(marker in tokens for marker in markers):
            return name
    return None
