"""Prompts: texts and conversations as the token ids of a model, with what the parser of the answer has to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ordito.errors import ContextError, OrditoError
from ordito.text.answers.style import HERMES, PLAIN, Style
from ordito.text.chat import ChatTemplate
from ordito.text.messages import check_messages, check_tools
from ordito.text.tokenizer import Tokenizer
from ordito.text.tool_words import with_tool_words

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """The token ids of a prompt, and what the parser of its answer has to know.

    `style` are the model's markers of reasoning and calls, `template` the source of the chat template that wrote the prompt.
    `thinks`: the prompt ends inside a thought (True) or behind one (False), so that the answer opens none; `begun`: it ends
    inside the answer. `tools` are the schemas of the parameters of those that were offered, by name, None for none.
    """

    ids: list[int]
    style: Style = PLAIN
    template: str = ""
    thinks: bool | None = False
    begun: bool = False
    tools: Mapping[str, Any] | None = None


def text_ids(tokenizer: Tokenizer, text: str, context: int | None = None) -> list[int]:
    """The token ids of a text, in which the text of special tokens is read as these tokens.

    Raises `ContextError` for a text that is certainly longer than `context`, before it is tokenized.
    """
    check_length(tokenizer, text, context)
    return tokenizer.encode(text, parse_special=True)


def chat_prompt(
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Messages,
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    tools_in_words: bool = False,
    continue_final_message: bool = False,
    options: Mapping[str, Any],
    context: int | None = None,
) -> Prompt:
    """The prompt of a conversation.

    With `tools_in_words`, a template that does not support tools gets them described in the system message. `options` are
    further variables of the template. Raises `TemplateError` for what the template refuses, `ContextError` as `text_ids` does.
    """
    style, offered, conversation = template.style, check_tools(tools), check_messages(messages)
    if continue_final_message and conversation[-1].get("tool_calls"):
        raise OrditoError("the last message calls tools, which cannot be continued: send what the calls gave")
    told = tools_in_words and not template.knows_tools
    if told and not style.channels:
        style = replace(style, tools=HERMES)  # as it is told to write calls
    rendered = template.render(
        with_tool_words(conversation, offered) if told else messages,
        tools=None if told else offered,
        continue_final_message=continue_final_message,
        guarded=tokenizer.guarded,
        **options,
    )
    check_length(tokenizer, rendered, context)
    tail, think = rendered.rstrip(), style.think
    return Prompt(
        tokenizer.encode_chat(rendered),
        style,
        template.source,
        # Some templates open the thought themselves, so that the model only closes it, or close one, so that it has none.
        thinks=tail.endswith(think[0]) if think and tail.endswith(think) else None,
        begun=continue_final_message,
        tools=None if offered is None else {one["name"]: one.get("parameters") for one in (t["function"] for t in offered)},
    )


def check_length(tokenizer: Tokenizer, text: str, context: int | None) -> None:
    """Raise `ContextError` for a text that is certainly too long: tokenizing megabytes to find out would take seconds."""
    if context is None or 4 * len(text) < context:  # a character has at most four bytes, a token at least one
        return
    if (least := tokenizer.least(text)) >= context:
        raise ContextError(
            f"the prompt has at least {least:,} tokens, but the model's context holds {context:,}: shorten the prompt",
            least,
            context,
        )
