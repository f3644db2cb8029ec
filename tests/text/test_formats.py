"""The prompt formats write what the published templates do, to the byte, on every conversation of conversations.json.

prompts.json holds what the published templates made of them (`published.py` says which and how). Where ../shared is beside
the checkout, those of them that it has are rendered anew.
"""

from __future__ import annotations

import functools
import json

import pytest
from published import CONVERSATIONS, DEFECTS, HERE, SHARED, SOURCES, TODAY, TOKENS, expected

from ordito.errors import TemplateError
from ordito.families import families
from ordito.text import filters
from ordito.text.chat import ChatTemplate
from ordito.text.formats import FORMATS, format_for
from ordito.text.tokenizer import GUARD

PROMPTS = json.loads((HERE / "prompts.json").read_text())
ROME = {"role": "user", "content": "Roma?"}
WITH_CALLS = ("deepseek-r1", "deepseek-v3", "deepseek-v3.1")  # but without a place for the tools
WITH_TOOLS = tuple(
    "harmony llama-3.1 llama-3.2 llama-4 mistral-v3 mistral-v3-tekken mistral-v7 mistral-v7-tekken mistral-v11 mistral-v13 "
    "phi-4-mini qwen2.5 qwen3".split()
)


@pytest.fixture(autouse=True)
def today(monkeypatch):
    monkeypatch.setattr(filters, "datetime", type("Clock", (), {"now": staticmethod(lambda: TODAY)}))


@functools.cache
def template(name):
    return ChatTemplate(FORMATS[name].source, **TOKENS)


def rendered(name, conversation):
    options = {key: value for key, value in conversation.items() if key != "name"}
    try:
        return template(name).render(options.pop("messages"), **options)
    except TemplateError:
        return None


@pytest.mark.parametrize("name", SOURCES)
def test_written_as_published(name):
    got = {title: rendered(name, CONVERSATIONS[title]) for title in PROMPTS[name]}
    assert got == PROMPTS[name]
    assert len(got) >= len(CONVERSATIONS) - 3
    assert sum(text is not None for text in got.values()) >= 10


@pytest.mark.parametrize(
    "name", [name for name, source in SOURCES.items() if source.endswith(".jinja") and "axolotl" not in source]
)
def test_the_record_is_what_the_published_templates_say(name):
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the checkout")
    published = (SHARED / SOURCES[name]).read_text()
    said = {title: expected(name, published, conversation) for title, conversation in CONVERSATIONS.items()}
    kept = {title: text for title, text in said.items() if text is not None and (name, title) not in DEFECTS}
    assert kept
    assert {title: PROMPTS[name][title] for title in kept} == kept


def test_families_name_existing_formats():
    named = {name for family in families() for name in family.prompts}
    assert named <= set(FORMATS)


def test_every_format_is_compared_with_a_source():
    assert set(FORMATS) - set(SOURCES) == {"alpaca", "camoscio", "fauno", "phi-2"}  # held below
    assert set(PROMPTS) == set(SOURCES)


# teelinsan/camoscio, templates/camoscio.json; tloen/alpaca-lora, templates/alpaca.json; the model card of microsoft/phi-2;
# RSTLess-research/Fauno-Italian-LLM, data_utilities/baize_data_utilities/preprocess.py.
TEXTS = {
    "camoscio": "<s>Di seguito è riportata un'istruzione che descrive un task. Scrivete una risposta che completi adeguatamente "
    "la richiesta.\n\n### Istruzione:\nRoma?\n\n### Risposta:\n",
    "alpaca": "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\nRoma?\n\n### Response:\n",
    "phi-2": "Instruct: Roma?\nOutput:",
    "fauno": "<s>The conversation between human and AI assistant.\n[|Human|] Roma?\n[|AI|] ",
}


@pytest.mark.parametrize("name", TEXTS)
def test_formats_without_a_template_follow_their_papers(name):
    assert template(name).render([ROME]) == TEXTS[name]
    more = template(name).render([{"role": "system", "content": "S."}, ROME, {"role": "assistant", "content": "Sì."}, ROME])
    assert "S." in more
    assert more.count("Roma?") == 2
    assert more.endswith(TEXTS[name][TEXTS[name].index("Roma?") :])
    with pytest.raises(TemplateError, match="only user and assistant"):
        template(name).render([ROME, {"role": "tool", "content": "x"}])


@pytest.mark.parametrize("name", FORMATS)
def test_developer_messages_become_system_messages(name):
    spoken = [rendered(name, {"messages": [{"role": role, "content": "S."}, ROME]}) for role in ("developer", "system")]
    assert spoken[0] == spoken[1]


CONTROL = {
    "llama-3": "<|start_header_id|> <|end_header_id|> <|eot_id|>",
    "llama-3.1": "<|start_header_id|> <|end_header_id|> <|eot_id|> <|eom_id|> <|python_tag|>",
    "llama-4": "<|header_start|> <|header_end|> <|eot|> <|eom|> <|python_start|>",
    "gemma": "<start_of_turn> <end_of_turn>",
    "gemma-3": "<start_of_turn> <end_of_turn> <start_of_image> <end_of_image>",
    "chatml": "<|im_start|> <|im_end|>",
    "qwen2.5": "<|im_start|> <|im_end|> <tool_call> </tool_call> <|repo_name|>",
    "qwen3": "<|im_start|> <|im_end|> <tool_call> </tool_call> <tool_response> <think> </think>",
    "smollm2": "<|im_start|> <|im_end|> <repo_name> <jupyter_start>",
    "phi-3": "<|system|> <|user|> <|assistant|> <|end|>",
    "phi-4": "<|im_start|> <|im_sep|> <|im_end|>",
    "phi-4-mini": "<|system|> <|user|> <|assistant|> <|end|> <|tool|> <|/tool|> <|tool_call|>",
    "mistral-v3": "[INST] [/INST] [TOOL_CALLS] [TOOL_RESULTS] [PREFIX]",
    "mistral-v3-tekken": "[INST] [/INST] [TOOL_CALLS] [TOOL_RESULTS] [PREFIX] <pad>",
    "mistral-v7": "[INST] [/INST] [TOOL_CALLS] [TOOL_CONTENT] [SYSTEM_PROMPT]",
    "mistral-v7-tekken": "[INST] [/INST] [TOOL_CALLS] [TOOL_CONTENT] [SYSTEM_PROMPT] <pad>",
    "mistral-v11": "[INST] [/INST] [TOOL_CALLS] [SYSTEM_PROMPT] <pad> [CALL_ID] [ARGS]",
    "mistral-v13": "[INST] [/INST] [TOOL_CALLS] [SYSTEM_PROMPT] <pad> [CALL_ID] [ARGS] [THINK] [/THINK]",
    "deepseek-v2": "<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜>",
    "deepseek-v3": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜>",
    "deepseek-r1": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <think>",
    "deepseek-v3.1": "<｜begin▁of▁sentence｜> <｜User｜> <｜Assistant｜> <｜tool▁calls▁begin｜> <think> <｜search▁begin｜>",
    "harmony": "<|start|> <|message|> <|channel|> <|return|> <|call|> <|end|>",
    None: "<s> </s> <|im_start|>",
}


@pytest.mark.parametrize("name", CONTROL)
def test_formats_are_recognised_by_control_tokens(name):
    assert format_for(CONTROL[name].split()) == name


def test_the_order_of_a_family_decides_where_the_vocabulary_cannot():
    tokens = CONTROL["llama-3.1"].split()
    assert format_for(tokens, ("llama-3.2", "llama-3")) == "llama-3.2"
    assert format_for(CONTROL["chatml"].split(), ("qwen3", "qwen2.5", "qwen2")) == "qwen2"


END = "<|cut|>"


def guarded(text):
    return text.replace(END, f"<{GUARD}|cut|>")


@pytest.mark.parametrize("name", [*WITH_TOOLS, *WITH_CALLS])
def test_tools_calls_and_results_cannot_spell_control_tokens(name):
    arguments = {END: END, "type": END, "role": END, "deep": [{"type": END, "nested": {END: END}}]}
    properties = {END: {"type": END, "description": END, "default": END}, "a": {"type": [END, "null"]}, "b": {"enum": [END]}}
    parameters = {"type": "object", "properties": properties, "required": [END]}
    tools = [{"type": "function", "function": {"name": f"f{END}", "description": END, "parameters": parameters}}]
    calls = [{"id": "abcdefgh1", "type": "function", "function": {"name": f"f{END}", "arguments": arguments}}]
    messages = [
        {"role": "user", "content": END},
        {"role": "assistant", "content": "", "tool_calls": calls, "reasoning_content": END},
        {"role": "tool", "name": END, "tool_call_id": "abcdefgh1", "content": END},
        {"role": "assistant", "content": END},
    ]
    text = template(name).render(messages, tools=tools if name in WITH_TOOLS else None, guarded=guarded, model_identity=END)
    assert text.count(GUARD) >= 8
    assert END not in text


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {*WITH_TOOLS}))
def test_formats_without_tools_refuse_them(name):
    with pytest.raises(TemplateError, match="leaves tools out"):
        template(name).render([ROME], tools=CONVERSATIONS["tools"]["tools"])


@pytest.mark.parametrize(
    "source", [FORMATS["chatml"].source, "{% for part in messages[0].content %}{{ part.text }}{% endfor %}"]
)
def test_parts_cannot_spell_a_control_token_together(source):
    parts = [{"type": "text", "text": "<|cu"}, {"type": "text", "text": "t|>"}]
    text = ChatTemplate(source).render([{"role": "user", "content": parts}], guarded=guarded)
    assert END not in text
    assert f"<{GUARD}|cut|>" in text
