"""How a model marks its reasoning and its tool calls, recognised by its chat template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ordito.text.answers.json_calls import Body, JsonCalls, MistralCalls, NamedCall
from ordito.text.answers.python_calls import LlamaCalls
from ordito.text.answers.tagged_calls import FUNCTION, PARAMETER, TaggedCall


@dataclass(frozen=True)
class ToolStyle:
    """The format of calls: a `begin` marker, a body that the parser `body(schemas by tool)` reads, an `end` marker.

    `skipped` markers may occur between calls; `inner` ones separate a call's name from its arguments. `bare`: characters with
    which a call without a marker may begin an answer. `loose`: semicolons and backquotes may follow a call. `opening`: text
    with which a body begins, where its marker may be missing. `shown`: texts that a template of this style contains beside the
    marker.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    body: Callable[[Mapping[str, Any]], Body]
    bare: str = ""
    loose: bool = False
    skipped: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()
    opening: str = ""
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """The markers of a model: those around its reasoning, and those of calls. `channels`: gpt-oss's Harmony format."""

    think: tuple[str, str] | None = None
    tools: ToolStyle | None = None
    channels: bool = False

    @property
    def markers(self) -> tuple[str, ...]:
        """All markers, as text."""
        if self.channels:
            return CHANNEL_MARKERS
        tools = (*self.tools.begin, *self.tools.end, *self.tools.skipped, *self.tools.inner) if self.tools else ()
        return (*(self.think or ()), *tools)

    def thought_end(self, in_grammar: bool) -> str:
        """What ends a thought that is too long. In channels, a grammar of the answer describes the next one with its name."""
        if self.think:
            return f"\n{self.think[1]}\n\n"
        return "<|end|><|start|>assistant<|channel|>" + ("" if in_grammar else "final<|message|>")


THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
CHANNEL_MARKERS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>")

HERMES = ToolStyle("hermes", ("<tool_call>",), ("</tool_call>",), lambda _: JsonCalls())
"""Hermes 2 Pro's and Qwen's format; what is asked of models whose template knows no tools."""
TOOL_STYLES = (
    ToolStyle("mistral", ("[TOOL_CALLS]",), (), lambda _: MistralCalls(), inner=("[CALL_ID]", "[ARGS]")),
    ToolStyle(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        ("<｜tool▁call▁end｜>",),
        lambda _: NamedCall(("<｜tool▁sep｜>",)),
        loose=True,
        inner=("<｜tool▁sep｜>",),
        skipped=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    ToolStyle("qwen3-coder", ("<tool_call>",), ("</tool_call>",), TaggedCall, opening=FUNCTION, shown=(FUNCTION, PARAMETER)),
    HERMES,
    ToolStyle("phi-4-mini", ("<|tool_call|>", "functools"), ("<|/tool_call|>",), lambda _: JsonCalls()),
    ToolStyle("llama-3", ("<|python_tag|>",), (), LlamaCalls, bare="{[", loose=True),
)
"""A model's style is the first one whose begin marker is in its template; Llama's is last, since it needs none."""


PLAIN = Style()
"""No markers: the whole answer is text."""


def style_of(template: str) -> Style:
    """The style of a chat template's source, with Hermes's format of calls if it does not support tools.

    >>> style_of("{{ '<think>' }} <tool_call>").tools.name
    'hermes'
    """
    if "<|channel|>" in template and "<|message|>" in template:
        return Style(channels=True)
    think = next((pair for pair in THINKING if pair[0] in template or pair[1] in template), None)
    for tools in TOOL_STYLES:
        begun = any(marker in template for marker in tools.begin) and all(text in template for text in tools.shown)
        if begun or (tools.bare and '"parameters": ' in template):
            return Style(think, tools)
    return Style(think, HERMES)
