from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ordito.errors import TemplateError
from ordito.text.chat import ChatTemplate
from ordito.text.formats import FORMATS, format_for
from ordito.text.messages import check_messages

CONVERSATIONS = [
    [{"role": "user", "content": "hi"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": " <b>più</b> & 'so' "},
        {"role": "assistant", "content": "ok"},
        {"role": "user", "content": "e poi?\n"},
    ],
]
TEMPLATES = {name: chat_format.source for name, chat_format in FORMATS.items()} | {
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}\n  {{- m.role | upper }}\n{%- endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% if ns.n > 2 %}{% break %}{% endif %}{{ ns.n ~ m.content }}{% endfor %}",
    "methods": "{% for m in messages %}{{ m.content.strip().split(' ')[-1].replace('i', 'o') }}{{ m.get('name', '-') }}{{ loop.index0 }}{% endfor %}",
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "è", "parameters": {"type": "object", "properties": {}}}}
]


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=["one turn", "four turns"])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
def test_rendered_as_transformers_does(name, conversation, tools):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    expected, _ = render_jinja_template(
        conversations=[conversation], chat_template=TEMPLATES[name], tools=tools, add_generation_prompt=True, **tokens
    )
    assert ChatTemplate(TEMPLATES[name], **tokens).render(conversation, tools=tools) == expected[0]


def test_llama_3_is_written_as_published():
    got = ChatTemplate(FORMATS["llama-3"].source, bos_token="<|begin_of_text|>").render(CONVERSATIONS[1][:2])
    assert got == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n<b>più</b> & 'so'<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    )


def test_gemma_folds_the_system_message():
    got = ChatTemplate(FORMATS["gemma"].source, bos_token="<bos>").render(CONVERSATIONS[1][:2])
    assert got == "<bos><start_of_turn>user\nBe brief.\n\n<b>più</b> & 'so'<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize("name", ["gemma", "llama-2"])
def test_turns_must_alternate(name):
    with pytest.raises(TemplateError, match="take turns"):
        ChatTemplate(FORMATS[name].source, bos_token="", eos_token="").render(CONVERSATIONS[0] * 2)


@pytest.mark.parametrize(
    ("control", "expected"),
    [
        ({"<|im_start|>", "<|im_end|>"}, "chatml"),
        ({"<start_of_turn>", "<end_of_turn>"}, "gemma"),
        ({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, "llama-3"),
        ({"<|im_start|>"}, None),
        (set(), None),
    ],
)
def test_formats_are_known_by_control_tokens(control, expected):
    assert format_for(control) == expected


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
    ],
)
def test_wrong_messages_are_refused(messages, message):
    with pytest.raises(TemplateError, match=message):
        check_messages(messages)


def test_text_parts_are_text():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    assert ChatTemplate(FORMATS["chatml"].source).render(parts).startswith("<|im_start|>user\nab<|im_end|>")
