"""String methods and formats in hostile templates: plain and marked-up text (`|safe`) have the same bounds."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from ordito.errors import TemplateError
from ordito.text.chat import ChatTemplate

USER = [{"role": "user", "content": "a & b, c"}]
LONG = "{% set b='a'*200000 %}{% set y=b~b~b~b~b~b~b~b %}"
ATTACKS = {
    "centring marked-up text": "{{ ('a'|safe).center(10**9) }}",
    "centring by name": "{{ ('a'|safe).center(width=10**9) }}",
    "replacing in marked-up text": "{{ (('a'*100000)|safe).replace('a', 'b'*100000) }}",
    "joining with marked-up text": "{{ (('a'*100000)|safe).join(['b']*90000) }}",
    "formatting marked-up text": "{{ ('{:>1000000000}'|safe).format(1) }}",
    "a key before a width": "{{ '%(a)-1000000000s' % {'a': 1} }}",
    "a key in parentheses": "{{ '%((a))1000000000s' % {'(a)': 1} }}",
    "a precision": "{{ '%5.100000f' % 1 }}",
    "a width from the arguments": "{{ '%-*d' % (10**9, 1) }}",
    "searching backwards": LONG + "{% if y.rfind(b~'b'~b) %}{% endif %}",
    "stripping many characters": LONG + "{{ y.strip('b'~b) }}",
    "the trim filter": LONG + "{{ y|trim('b'~b) }}",
    "parts of parts": LONG + "{% for i in range(90000) %}{% if y.partition('a') %}{% endif %}{% endfor %}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_strings_stay_small(attack):
    tracemalloc.start()
    start = time.thread_time()
    try:
        with pytest.raises(TemplateError, match="was stopped"):
            ChatTemplate(ATTACKS[attack]).render(USER)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 300_000_000
    assert time.thread_time() - start < 20


@pytest.mark.parametrize("text", ["'{0.__class__}'", "('{0.__class__}'|safe)", "('{0[__class__]}'|safe)"])
@pytest.mark.parametrize("value", ["namespace", "messages", "''"])
def test_formats_reach_no_internal_attributes(text, value):
    template = ChatTemplate("{{ " + text + ".format(" + value + ") }}")
    try:
        assert template.render(USER) == ""
    except TemplateError as error:
        assert "class" in str(error) or "indices" in str(error) or "subscriptable" in str(error)


INSIDES = "{0.__init__.__globals__}"


@pytest.mark.parametrize(
    "source",
    [
        "{% set f = ('INSIDES'|safe).format %}{{ f(namespace) }}",
        "{{ ('INSIDES'|safe)['format'](namespace) }}",
        "{{ ([('INSIDES'|safe)]|map(attribute='format')|list)[0](namespace) }}",
        "{{ ('INSIDES'|e).format(namespace) }}",
        "{{ ('INSIDES' ~ (''|safe)).format(namespace) }}",
        "{{ (''|safe).join(['INSIDES']).format(namespace) }}",
        "{% macro m() %}INSIDES{% endmacro %}{{ m().format(namespace) }}",
        "{% set x %}INSIDES{% endset %}{{ x.format(namespace) }}",
        "{% macro m() %}{% endmacro %}{{ ('{0._func.__globals__}'|safe).format(m) }}",
    ],
)
def test_no_way_to_a_formatter_is_open(source):
    with pytest.raises(TemplateError, match="access to attribute '_"):
        ChatTemplate(source.replace("INSIDES", INSIDES)).render(USER)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ('<{}>'|safe).format(messages[0].content) }}",
        "{{ '<{:>12}>'.format(messages[0].content) }}",
        "{{ ('<b>'|safe) + messages[0].content + '<' }}",
        "{{ (', '|safe).join([messages[0].content, '<']) ~ '<' }}",
        "{{ messages[0].content.split(', ')|join('|') }}{{ messages[0].content|trim('ac') }}",
        "{{ (messages[0].content|safe).replace('&', '<') + '<' }}",
        "{{ '%-9s|%5.1f' % (messages[0].content, 2.25) }} ** {{ '%d%%' % 12345 }}",
    ],
)
def test_strings_are_those_of_transformers(source):
    expected = _compile_jinja_template(source).render(messages=USER)
    assert ChatTemplate(source).render(USER) == expected
