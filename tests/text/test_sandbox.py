"""Hostile chat templates: no way out, no more than two seconds, no more than some megabytes."""

from __future__ import annotations

import threading
import time
import tracemalloc

import pytest

from ordito.errors import TemplateError
from ordito.text.chat import ChatTemplate

USER = [{"role": "user", "content": "x"}]
ATTACKS = {
    "a huge range": "{% for i in range(10**9) %}x{% endfor %}",
    "nested loops": "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
    "a long string": "{{ 'a' * 10**10 }}",
    "a long list": "{{ ['a'] * 10**9 }}",
    "constant folding": "{% if 'a' * 10**10 == 'b' %}{% endif %}",
    "a huge power": "{{ 9**(9**9) }}",
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "the attr filter": "{{ ''|attr('__class__') }}",
    "format width": "{{ '{:>1000000000}'.format('x') }}",
    "format width by argument": "{{ '{:{}}'.format('x', 10**9) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "centring": "{{ 'x'|center(10**9) }}",
    "padding": "{{ 'x'.ljust(10**9) }}",
    "endless macro": "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "branching macro": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}",
    "doubling a string": "{% set ns=namespace(x='a') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "doubling a tree": "{% set ns=namespace(x=['a']) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    "replacing": "{{ ('a'*100000)|replace('a', 'b'*100000) }}",
    "joining": "{{ ('b'*100000).join(('a '*50000).split()) }}",
    "indenting": "{{ ('a\n'*100000)|indent(10**6) }}",
    "a captured block": "{% set b='a'*1000000 %}{% set x %}{% for i in range(90000) %}{{ b }}{% endfor %}{% endset %}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep blocks": "{% if 1 %}" * 500 + "{% endif %}" * 500,
    "recursive loops": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "importing": "{% import 'x' as y %}",
    "including": "{% include '/etc/passwd' %}",
    "sorting for ever": "{% for i in range(90000) %}{{ range(90000)|sort|length }}{% endfor %}",
    "broken syntax": "{% for %}",
    "a source of megabytes": "x" * 10**7,
    "its own refusal": "{{ raise_exception('no') }}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_end_in_an_error(attack):
    threads = threading.active_count()
    tracemalloc.start()
    start = time.monotonic()
    with pytest.raises(TemplateError) as error:
        ChatTemplate(ATTACKS[attack]).render(USER)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in str(error.value)
    assert peak < 200_000_000
    assert time.monotonic() - start < 20  # two seconds, on a machine that is ten times slower than it should be
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    "source", ["{{ '{0.__class__}'.format('') }}", "{{ raise_exception.__globals__ }}", "{{ namespace.__init__ }}"]
)
def test_internal_attributes_do_not_exist(source):
    assert ChatTemplate(source).render(USER) == ""


def test_replacing_inside_a_loop_works():
    template = "{% for m in messages %}{% set a = 1 %}{{ m.content.replace('x', 'y') }}{{ '-'.join(['a', 'b']) }}{% endfor %}"
    assert ChatTemplate(template).render(USER) == "ya-b"
