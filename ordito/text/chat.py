"""Conversations -> prompts: messages are checked, then written by a chat template inside the sandbox.

Loading this module costs no Jinja: it comes with the first template.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ordito.errors import TemplateError, did_you_mean
from ordito.text.formats import FORMATS, format_for

if TYPE_CHECKING:
    from jinja2 import Template

    from ordito.text.tokenizer import Tokenizer

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
Message = Mapping[str, Any]

_REASONING = ("reasoning_content", "thinking", "reasoning")  # what templates and servers call it, the common name first
_PROBE = "warp-and-weft"
_PROBE_SECONDS = 0.5


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The conversation as plain data, or a `TemplateError` that says which message is wrong and how."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise TemplateError(f"a conversation must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise TemplateError("a conversation must have at least one message, got none")
    return [_check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _check_message(message: Message, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise TemplateError(f"{where} must be a mapping with a role and a content, got {type(message).__name__}")
    plain: dict[str, Any] = plain_data(message, where)
    role = plain.get("role")
    if not isinstance(role, str) or role not in ROLES:
        near = did_you_mean(role, ROLES) if isinstance(role, str) else ""
        raise TemplateError(f"{where}: role must be one of {', '.join(ROLES)}, got {str(role)[:50]!r}{near}")
    content = plain.get("content")
    if isinstance(content, list):
        for j, part in enumerate(content):
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise TemplateError(f'{where}: content[{j}] must be {{"type": "text", "text": "..."}}, got {part!r:.100}')
    elif content is None and role != "assistant":
        raise TemplateError(f"{where}: a message of role {role} must have a content")
    elif not isinstance(content, str | None):
        raise TemplateError(f"{where}: content must be a string or a list of text parts, got {type(content).__name__}")
    # Templates read the assistant's reasoning under one of several names, and clients send it under any of them.
    reasoning = next((plain[key] for key in _REASONING if plain.get(key) is not None), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def guard(value: Any, guarded: Callable[[str], str]) -> Any:
    """The value with `guarded` applied to every string in it, but for roles and keys, which templates compare."""
    if isinstance(value, str):
        return guarded(value)
    if isinstance(value, dict):
        return {key: item if key in ("role", "type") else guard(item, guarded) for key, item in value.items()}
    return [guard(item, guarded) for item in value] if isinstance(value, list) else value


def plain_data(value: object, where: str) -> Any:
    """The value rebuilt from JSON's types: an object with methods of its own must not reach a template."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TemplateError(f"{where}: keys must be strings, got {type(key).__name__}")
        return {str(key): plain_data(item, where) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_data(item, where) for item in value]
    raise TemplateError(f"{where} must be made of strings, numbers, lists and mappings, got {type(value).__name__}")


class ChatTemplate:
    """A compiled chat template, Jinja as transformers runs it, with bounded time and memory; safe to share by threads.

    >>> source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\\n{% endfor %}"
    >>> ChatTemplate(source).render([{"role": "user", "content": "ciao"}])
    'user: ciao\\n'
    """

    def __init__(
        self, source: str, *, bos_token: str | None = None, eos_token: str | None = None, **special_tokens: str | None
    ) -> None:
        from ordito.text.sandbox import MAX_SOURCE, sandbox

        if not isinstance(source, str):
            raise TemplateError(f"a chat template must be text, got {type(source).__name__}")
        if len(source) > MAX_SOURCE:
            raise TemplateError(f"the chat template has {len(source):,} characters, of at most {MAX_SOURCE:,}")
        self.source = source
        tokens = {"bos_token": bos_token, "eos_token": eos_token, **special_tokens}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}
        try:
            self._template: Template = sandbox().from_string(source)
        except TemplateError:
            raise
        except Exception as error:  # hostile input fails in many ways: RecursionError, SyntaxError, MemoryError, ...
            line = f" at line {error.lineno}" if getattr(error, "lineno", None) else ""  # type: ignore[attr-defined]
            raise TemplateError(f"the chat template cannot be compiled{line}: {_said(error)}") from None

    @classmethod
    def for_tokenizer(cls, tokenizer: Tokenizer, formats: Iterable[str] = FORMATS) -> ChatTemplate:
        """The tokenizer's own template, or else the first of `formats` whose markers are among its control tokens.

        Raises `TemplateError` if there is neither: the model was not trained on conversations.
        """
        source = tokenizer.chat_template
        if source is None:
            name = format_for({tokenizer.token(i) for i in tokenizer.special_ids}, formats)
            if name is None:
                raise TemplateError(
                    "this model has no chat format: it has neither a chat template nor the control tokens of a known "
                    "one, as base models do; give it a plain prompt instead of messages"
                )
            source = FORMATS[name].source
        names = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        names |= {"pad_token": tokenizer.pad_id, "unk_token": tokenizer.unk_id}
        return cls(source, **{name: None if i is None else tokenizer.token(i) for name, i in names.items()})

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> str:
        """The prompt; `kwargs` are further variables that the template knows (`enable_thinking`, `documents`, ...)."""
        conversation = self._adapted(check_messages(messages))
        tool_list = None if tools is None else [plain_data(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
        extra = {name: plain_data(value, name) for name, value in kwargs.items()}
        return self._run(
            {
                "documents": None,
                **self._tokens,
                **extra,
                "messages": conversation,
                "tools": tool_list,
                "add_generation_prompt": add_generation_prompt,
            }
        )

    def _run(self, variables: dict[str, Any], seconds: float | None = None) -> str:
        from ordito.text.budget import SECONDS, Budget

        try:
            with Budget(variables, seconds or SECONDS):
                return "".join(self._template.generate(**variables))
        except TemplateError:
            raise
        except Exception as error:
            raise TemplateError(f"the chat template failed{_line(error)}: {_said(error)}") from None

    def _adapted(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages in the shape of content that this template can read: many know only strings, some only parts."""
        if any(isinstance(m.get("content"), list) for m in messages) and not self._reads_parts:
            return [m | {"content": _joined(m["content"])} if "content" in m else m for m in messages]
        if any(isinstance(m.get("content"), str) for m in messages) and not self._reads_strings and self._reads_parts:
            return [
                m | {"content": [{"type": "text", "text": m["content"]}]} if isinstance(m.get("content"), str) else m
                for m in messages
            ]
        return messages

    @functools.cached_property
    def _reads_parts(self) -> bool:
        return self._carries([{"type": "text", "text": _PROBE}])

    @functools.cached_property
    def _reads_strings(self) -> bool:
        return self._carries(_PROBE)

    def _carries(self, content: object) -> bool:
        """Whether a message of this shape comes through. A template beyond its limits is not asked again."""
        from ordito.text.budget import LimitError

        messages = [{"role": "user", "content": content}]
        try:
            variables = {**self._tokens, "messages": messages, "tools": None, "add_generation_prompt": True}
            text = self._run(variables, _PROBE_SECONDS)
        except LimitError:
            raise
        except TemplateError:
            return False
        return _PROBE in text and "'text'" not in text


def _joined(content: object) -> object:
    return "".join(part["text"] for part in content) if isinstance(content, list) else content


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}".rstrip(": ")


def _line(error: Exception) -> str:
    """The template's line at which it failed: Jinja puts the template's own frames into the traceback."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return f" at line {line}" if line else ""
