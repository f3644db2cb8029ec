"""Chat formats for vocabularies that come without a template, recognised by the control tokens that they have."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

_ROLES = "{% set role = 'system' if message['role'] == 'developer' else message['role'] %}"

_CHATML = (
    "{% for message in messages %}"
    + _ROLES
    + "{{ '<|im_start|>' + role + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}" + _ROLES + "{% if role == 'tool' %}{% set role = 'ipython' %}{% endif %}"
    "{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# Gemma and Llama 2 have no turn for the system: its words open the first user's turn.
_FOLD_SYSTEM = (
    "{% if messages[0]['role'] in ['system', 'developer'] %}"
    "{% set system = messages[0]['content'] %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = none %}{% set turns = messages %}{% endif %}"
)
_ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('after the system message, user and assistant must take turns, the user first') }}{% endif %}"
)

_GEMMA = (
    "{{ bos_token }}"
    + _FOLD_SYSTEM
    + "{% for message in turns %}"
    + _ALTERNATE
    + "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\\n' }}"
    "{% if loop.first and system is not none %}{{ system | trim + '\\n\\n' }}{% endif %}"
    "{{ message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)

_LLAMA2 = (
    _FOLD_SYSTEM + "{% for message in turns %}" + _ALTERNATE + "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system is not none %}{{ '<<SYS>>\\n' + system + '\\n<</SYS>>\\n\\n' }}{% endif %}"
    "{{ message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatFormat:
    """How a conversation is written: a template, and the control tokens by which a vocabulary shows that it knows it."""

    source: str
    markers: tuple[str, ...] = ()  # none: cannot be recognised, only asked for by name


FORMATS: dict[str, ChatFormat] = {
    "llama-3": ChatFormat(source=_LLAMA3, markers=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "gemma": ChatFormat(source=_GEMMA, markers=("<start_of_turn>", "<end_of_turn>")),
    "chatml": ChatFormat(source=_CHATML, markers=("<|im_start|>", "<|im_end|>")),
    "llama-2": ChatFormat(source=_LLAMA2),
}


def format_for(control: Container[str], formats: Iterable[str] = FORMATS) -> str | None:
    """The first of `formats` all of whose markers are among the *control* tokens of a vocabulary; None if there is none.

    An ordinary token that happens to be spelled like a marker proves nothing.

    >>> format_for({"<|im_start|>", "<|im_end|>"})
    'chatml'
    """
    for name in formats:
        markers = FORMATS[name].markers
        if markers and all(marker in control for marker in markers):
            return name
    return None
