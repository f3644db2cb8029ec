"""How a model marks what it thinks and calls: read off its chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ordito.text.answers.json_calls import Body, JsonCalls, MistralCalls, NamedCall


@dataclass(frozen=True)
class ToolStyle:
    """How calls are written: a marker, what `body` reads, and a marker; between calls, `skipped` may stand.

    `inner` markers part a call's name from its arguments. Where `bare`, an answer can also begin with a call, without a
    marker. Where `loose`, semicolons and the quotes of a code block may stand behind one.
    """

    name: str
    begin: tuple[str, ...]
    end: tuple[str, ...]
    body: Callable[[], Body]
    bare: bool = False
    loose: bool = False
    skipped: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()


@dataclass(frozen=True)
class Style:
    """The markers of a model: what its thinking stands between, and how it calls. `channels`: gpt-oss's harmony format."""

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


THINKING = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
CHANNEL_MARKERS = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>")

HERMES = ToolStyle("hermes", ("<tool_call>",), ("</tool_call>",), JsonCalls)
"""Hermes 2 Pro's and Qwen's format; what is asked of models whose template knows no tools."""
TOOL_STYLES = (
    ToolStyle("mistral", ("[TOOL_CALLS]",), (), MistralCalls, inner=("[CALL_ID]", "[ARGS]")),
    ToolStyle(
        "deepseek",
        ("<｜tool▁call▁begin｜>",),
        ("<｜tool▁call▁end｜>",),
        lambda: NamedCall(("<｜tool▁sep｜>",)),
        loose=True,
        inner=("<｜tool▁sep｜>",),
        skipped=("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    ),
    HERMES,
    ToolStyle("phi-4-mini", ("<|tool_call|>",), ("<|/tool_call|>",), JsonCalls),
    ToolStyle("llama-3", ("<|python_tag|>",), (), JsonCalls, bare=True, loose=True),
)
"""The first whose begin marker a template holds is the model's; Llama's stands last, since it needs none."""


PLAIN = Style()
"""What is written is what is said."""


def style_of(template: str) -> Style:
    """The style that a chat template's source shows; tools are asked for in Hermes's where it knows none.

    >>> style_of("{{ '<think>' }} <tool_call>").tools.name
    'hermes'
    """
    if "<|channel|>" in template and "<|message|>" in template:
        return Style(channels=True)
    think = next((pair for pair in THINKING if pair[0] in template or pair[1] in template), None)
    for tools in TOOL_STYLES:
        if any(marker in template for marker in tools.begin) or (tools.bare and '"parameters": ' in template):
            return Style(think, tools)
    return Style(think, HERMES)
