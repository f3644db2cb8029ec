"""Conversations to prompts: messages are checked, then rendered by a chat template in the sandbox.

This module does not import Jinja, which the first template does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ordito.errors import TemplateError, unknown
from ordito.text.answers.style import Style, style_of
from ordito.text.formats import FORMATS, format_for
from ordito.text.messages import (
    Message,
    Tool,
    check_messages,
    check_tools,
    guard,
    guard_message,
    joined,
    plain_data,
    with_short_ids,
)

if TYPE_CHECKING:
    from jinja2 import Template

    from ordito.text.tokenizer import Tokenizer

_PROBE = "warp-and-weft"
_PROBE_SECONDS = 0.5
_END = "warp-and-weft-end "
"""A marker appended to a message that is to be continued, to find its end in the rendered prompt."""
_EFFORTS = ("low", "medium", "high")


def thinking_options(thinking: bool | str | None) -> dict[str, Any]:
    """The template variables that turn reasoning on or off and set its effort; {} (the model's default) for None.

    Raises `TemplateError` for anything but True, False and an effort.
    """
    if thinking is None:
        return {}
    if not isinstance(thinking, bool) and thinking not in _EFFORTS:
        raise TemplateError(f"thinking must be True, False or one of {', '.join(_EFFORTS)}, got {thinking!r:.50}")
    effort = {"reasoning_effort": thinking} if isinstance(thinking, str) else {}
    return {"enable_thinking": bool(thinking), "thinking": bool(thinking), **effort}


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
    def for_tokenizer(cls, tokenizer: Tokenizer, formats: Iterable[str] = FORMATS, named: str | None = None) -> ChatTemplate:
        """The tokenizer's own template, or else the first of `formats` whose markers are all control or added tokens.

        `named` chooses one of `FORMATS` instead, for models whose format cannot be recognised by tokens (Alpaca's). Raises
        `TemplateError` if there is none: the model was not trained on conversations.
        """
        source = tokenizer.chat_template
        if named is not None:
            if named not in FORMATS:
                raise TemplateError(unknown("prompt format", named, FORMATS))
            source = FORMATS[named].source
        if source is None:
            name = format_for({tokenizer.token(i) for i in tokenizer.special_ids | tokenizer.vocabulary.added}, formats)
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
        tools: Sequence[Tool] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        guarded: Callable[[str], str] | None = None,
        **options: Any,
    ) -> str:
        """The prompt, as transformers would render it.

        `options` are further variables of the template (`enable_thinking`, `reasoning_effort`, `documents`, ...). With
        `continue_final_message` the prompt ends with the content of the last message. `guarded` (`Tokenizer.guarded`) is
        applied to all text of the caller, so that it cannot spell control tokens. Raises `TemplateError` for an invalid
        conversation, one that the template refuses, and tools or calls that it would leave out.
        """
        conversation, offered = self._adapted(check_messages(messages)), check_tools(tools)
        extra = {name: plain_data(value, name) for name, value in options.items()}
        if guarded is not None:
            conversation = [guard_message(message, guarded) for message in conversation]
            offered, extra = guard(offered, guarded), guard(extra, guarded)
        if continue_final_message:
            conversation = [*conversation[:-1], _with_end(conversation[-1])]
        variables = {"documents": None, **self._tokens, **extra, "messages": conversation, "tools": offered}
        variables["add_generation_prompt"] = add_generation_prompt and not continue_final_message
        text = self._run(variables)
        calls = _calls(conversation)
        silent = [{key: value for key, value in message.items() if key != "tool_calls"} for message in conversation]
        for what, named, bare in (("tools", offered or [], {"tools": None}), ("tool calls", calls, {"messages": silent})):
            found = any(item["function"]["name"] in text for item in named)
            # The name may only be what somebody says; but calls that are written show the model what it may call.
            doubtful = found and not self.knows_tools and (what == "tool calls" or not calls)
            if named and (not found or (doubtful and self._ignores(bare, variables, text))):
                raise TemplateError(f"this model's chat template leaves {what} out: it was not trained on them")
        return _up_to_end(text) if continue_final_message else text

    @functools.cached_property
    def style(self) -> Style:
        """How the model marks its reasoning and its tool calls."""
        return style_of(self.source)

    @functools.cached_property
    def knows_tools(self) -> bool:
        """Whether the template renders tools."""
        tool = {"type": "function", "function": {"name": _PROBE, "description": "", "parameters": {"type": "object"}}}
        variables = {**self._tokens, "messages": [{"role": "user", "content": "?"}], "add_generation_prompt": True}
        try:
            return _PROBE in self._run(variables | {"tools": [tool]}, _PROBE_SECONDS)
        except TemplateError:
            return False

    def _ignores(self, bare: dict[str, Any], variables: dict[str, Any], text: str) -> bool:
        """Whether the prompt is the same with these variables instead, which have no tools or no calls."""
        try:
            return self._run(variables | bare) == text
        except TemplateError:  # a message without its calls may have nothing left to say
            return False

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
        """The messages in the form that this template can render: many support only strings as content, some only parts."""
        if self.style.tools is not None and self.style.tools.name == "mistral":
            messages = [with_short_ids(message) for message in messages]
        if _calls(messages):
            messages = [self._with_call_form(m) if m.get("tool_calls") else m for m in messages]
        if any(isinstance(m.get("content"), list) for m in messages) and not self._reads_parts:
            return [m | {"content": joined(m["content"])} if "content" in m else m for m in messages]
        if any(isinstance(m.get("content"), str) for m in messages) and not self._reads_strings and self._reads_parts:
            return [
                m | {"content": [{"type": "text", "text": m["content"]}]} if isinstance(m.get("content"), str) else m
                for m in messages
            ]
        return messages

    def _with_call_form(self, message: dict[str, Any]) -> dict[str, Any]:
        """A message with tool calls in a form that this template renders, or unchanged if there is no such form."""
        shapes = sorted(self._call_shapes, key=lambda shape: shape[0] != message.get("content"))
        if not shapes:
            return message
        empty, as_text = shapes[0]
        calls = message["tool_calls"]
        if as_text:
            texts = [json.dumps(call["function"]["arguments"], ensure_ascii=False) for call in calls]
            calls = [
                call | {"function": call["function"] | {"arguments": text}} for call, text in zip(calls, texts, strict=True)
            ]
        return message | {"content": message.get("content") or empty, "tool_calls": calls}

    @functools.cached_property
    def _call_shapes(self) -> list[tuple[str | None, bool]]:
        """The supported forms of a message with calls only: its content, and whether the arguments are JSON text."""
        shapes: list[tuple[str | None, bool]] = []
        for as_text in (False, True):
            arguments = json.dumps({"thread": _PROBE}) if as_text else {"thread": _PROBE}
            calls = [{"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": arguments}}]
            for content in (None, ""):
                if self._carries({"role": "assistant", "content": content, "tool_calls": calls}):
                    shapes.append((content, as_text))
        return shapes

    @functools.cached_property
    def _reads_parts(self) -> bool:
        return self._carries({"role": "user", "content": [{"type": "text", "text": _PROBE}]})

    @functools.cached_property
    def _reads_strings(self) -> bool:
        return self._carries({"role": "user", "content": _PROBE})

    def _carries(self, message: dict[str, Any]) -> bool:
        """Whether the template renders the content of a message of this form. Raises `LimitError` if it exceeds its limits."""
        from ordito.text.budget import LimitError

        opening = [{"role": "user", "content": "?"}] if message["role"] == "assistant" else []
        try:
            variables = {**self._tokens, "messages": [*opening, message], "tools": None, "add_generation_prompt": True}
            text = self._run(variables, _PROBE_SECONDS)
        except LimitError:
            raise
        except TemplateError:
            return False
        # A template that does not support the form prints Python's representation of a mapping or of None.
        return _PROBE in text and not any(odd in text for odd in ("'text'", "'thread'", "None"))


def _with_end(message: dict[str, Any]) -> dict[str, Any]:
    """A message that is to be continued, with `_END` appended. Raises `TemplateError` for one that cannot be continued."""
    content = message.get("content")
    if message["role"] != "assistant" or message.get("tool_calls") or content in (None, []):
        raise TemplateError("only what an assistant says can be continued: the last message must have a content, and no calls")
    if isinstance(content, str):
        return message | {"content": content + _END}
    return message | {"content": [*content[:-1], content[-1] | {"text": content[-1]["text"] + _END}]}


def _up_to_end(text: str) -> str:
    before, found, after = text.rpartition(_END.rstrip())
    if not found:
        raise TemplateError("this model's chat template leaves out the message that is to be continued")
    # If the template has stripped the space behind the marker, it would have stripped spaces at the end of the message too.
    return before if after.startswith(" ") else before.rstrip()


def _calls(messages: list[dict[str, Any]]) -> list[Any]:
    return [call for message in messages for call in message.get("tool_calls", [])]


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
