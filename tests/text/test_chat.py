from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ordito.errors import TemplateError
from ordito.text.chat import ChatTemplate, thinking_options
from ordito.text.formats import FORMATS
from ordito.text.messages import check_messages, check_tools


def call(arguments):
    return {"id": "abcdefgh1", "type": "function", "function": {"name": "f", "arguments": arguments}}


CONVERSATIONS = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " <b>più</b> & 'so' "},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "e poi?\n"},
    ],
]
TEMPLATES = {
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}\n  {{- m.role | upper }}\n{%- endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 2 %}{% break %}{% endif %}{{ ns.n ~ m.content }}{% endfor %}",
    "methods": "{% for m in messages %}{{ m.content.strip().split(' ')[-1].replace('i', 'o') }}{{ m.get('name', '-') }}{{ loop.index0 }}{% endfor %}",
}
TOOLS = [
    {"type": "function", "function": {"name": "fold", "description": "è", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["one turn", "four turns"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_does(name, conversation):
    tools = TOOLS if name == "tools" else None
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        conversations=[conversation], chat_template=TEMPLATES[name], tools=tools, add_generation_prompt=True, **tokens
    )
    assert ChatTemplate(TEMPLATES[name], **tokens).render(conversation, tools=tools) == expected[0]


CONTINUED = {
    "a text": "The loom",
    "a space behind it": "The loom ",
    "nothing": "",
    "parts": [{"type": "text", "text": "The"}, {"type": "text", "text": " loom"}],
}


@pytest.mark.parametrize("content", CONTINUED.values(), ids=CONTINUED)
@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
        "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n</s>{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{% for p in m.content %}{{ p.text }}{% endfor %}</s>{% endfor %}",
        *(
            FORMATS[name].source
            for name in ("chatml", "llama-2", "llama-3", "gemma", "mistral-v1", "qwen3", "phi-4", "harmony")
        ),
    ],
)
def test_the_last_message_is_continued_as_in_transformers(template, content):
    conversation = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": content}]
    if isinstance(content, list) and "p.text" not in template:  # transformers gives templates what they cannot read
        conversation[1]["content"] = "The loom"
    if "p.text" in template:
        conversation = [
            one | {"content": [{"type": "text", "text": one["content"]}]} if isinstance(one["content"], str) else one
            for one in conversation
        ]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        conversations=[conversation], chat_template=template, continue_final_message=True, **tokens
    )
    conversation[1]["content"] = content
    assert ChatTemplate(template, **tokens).render(conversation, continue_final_message=True) == expected[0]


@pytest.mark.parametrize(
    ("last", "message"),
    [
        ({"role": "user", "content": "hi"}, "only what an assistant says"),
        ({"role": "assistant", "content": None, "tool_calls": [call({})]}, "no calls"),
        ({"role": "assistant", "content": None}, "must have a content"),
        ({"role": "assistant", "content": "hi"}, "leaves out the message"),
    ],
)
def test_what_cannot_be_continued(last, message):
    template = "{% for m in messages if m.role == 'user' or m.tool_calls %}{{ m }}{% endfor %}"
    with pytest.raises(TemplateError, match=message):
        ChatTemplate(template).render([{"role": "user", "content": "?"}, last], continue_final_message=True)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hi", "list of messages"),
        ([], "at least one"),
        (["hi"], r"messages\[0\]"),
        ([{"content": "hi"}], "role must be"),
        ([{"role": "usr", "content": "hi"}], "did you mean user"),
        ([{"role": "user"}], "must have a content"),
        ([{"role": "user", "content": 3}], "content must be"),
        ([{"role": "user", "content": [{"type": "image"}]}], r"content\[0\]"),
        ([{"role": "user", "content": "a", "extra": object()}], "strings, numbers"),
        ([{"role": "assistant", "content": "a", "reasoning_content": 3}], "reasoning_content must be a string"),
        ([{"role": "tool", "content": "a", "tool_call_id": 3}], "tool_call_id must be a string"),
        ([{"role": "user", "content": "a", "tool_calls": [{}]}], "only an assistant"),
        ([{"role": "assistant", "tool_calls": {"a": 1}}], "tool_calls must be a list"),
        ([{"role": "assistant", "tool_calls": [{"function": {"name": ""}}]}], r"tool_calls\[0\] must be"),
        ([{"role": "assistant", "tool_calls": [call("[1]")]}], r"tool_calls\[0\]: arguments must be a JSON object"),
        ([{"role": "assistant", "tool_calls": [call("{")]}], "JSON object"),
        ([{"role": "assistant", "tool_calls": [call("[" * 100_000)]}], "JSON object"),
        ([{"role": "assistant", "tool_calls": [{**call({}), "id": 3}]}], "id must be a string"),
    ],
)
def test_wrong_messages_are_refused(messages, message):
    with pytest.raises(TemplateError, match=message):
        check_messages(messages)


def test_text_parts_are_text():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert ChatTemplate(FORMATS["chatml"].source).render(parts).startswith("<|im_start|>user\nab<|im_end|>")


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("f", "list of functions"),
        ({"name": "f"}, "list of functions"),
        ([3], r"tools\[0\] must be"),
        ([{"name": "f"}], r'tools\[0\] must be {"type": "function"'),
        ([{"function": {"name": "f", "parameters": []}}], "parameters must be a mapping"),
        ([{"function": {"name": "f", "description": 3}}], "description must be a string"),
        ([{"function": {"name": "f", "parameters": {"a": object()}}}], "strings, numbers"),
    ],
)
def test_wrong_tools_are_refused(tools, message):
    with pytest.raises(TemplateError, match=message):
        check_tools(tools)


def test_arguments_are_mappings_however_they_came():
    sent = [
        {"role": "assistant", "content": None, "tool_calls": [call(arguments)]}
        for arguments in ('{"a": "è"}', {"a": "è"}, "", None)
    ]
    read = [message["tool_calls"][0]["function"]["arguments"] for message in check_messages(sent)]
    assert read == [{"a": "è"}, {"a": "è"}, {}, {}]
    assert "tool_calls" not in check_messages([{"role": "assistant", "content": "a", "tool_calls": []}])[0]


@pytest.mark.parametrize(
    "written",
    [
        "{{ c.function.arguments | tojson }}",
        "{{ c.function.arguments + '' }}",  # JSON text, as DeepSeek's published templates want it
        "{% if m.content is none %}{{ c.function.arguments + '' }}{% endif %}",
        "{{ m.content.strip() }}{{ c.function.arguments + '' }}",
    ],
)
def test_calls_have_the_shape_that_the_template_reads(written):
    source = "{% for m in messages %}{% for c in m.tool_calls %}" + written + "{% endfor %}{% endfor %} f"
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": None, "tool_calls": [call({"a": "è"})]}]
    assert ChatTemplate(source).render(messages) == '{"a": "è"} f'


def test_tools_that_the_template_leaves_out_are_refused():
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    with pytest.raises(TemplateError, match="leaves tools out"):
        template.render(CONVERSATIONS[0], tools=TOOLS)
    with pytest.raises(TemplateError, match="leaves tool calls out"):
        template.render([{"role": "assistant", "content": "a", "tool_calls": [call({})]}])
    assert template.render(CONVERSATIONS[0], tools=[]) == "hi"


@pytest.mark.parametrize(
    ("thinking", "options"),
    [
        (None, {}),
        (False, {"enable_thinking": False, "thinking": False}),
        ("high", {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}),
    ],
)
def test_thinking_sets_the_variables_of_all_templates(thinking, options):
    assert thinking_options(thinking) == options


@pytest.mark.parametrize("thinking", ["much", 3, ""])
def test_invalid_thinking_options_are_refused(thinking):
    with pytest.raises(TemplateError, match="thinking must be"):
        thinking_options(thinking)
