from __future__ import annotations

import json

import pytest
from byte_tokenizer import byte_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from ordito.text.answers import PLAIN, Answer, answer_reader, joined, style_of
from ordito.text.formats import FORMATS
from ordito.text.stream import Detokenizer


class Letters:
    """A tokenizer whose tokens are what a test cuts its text into; `marks` are control tokens."""

    def __init__(self, marks=()):
        self.tokens = list(marks)
        self.vocabulary = self
        self.control, self.added = frozenset(range(len(marks))), frozenset()

    def id_of(self, token):
        return self.tokens.index(token) if token in self.tokens else None

    def encode(self, text, **options):
        return [-1]  # its ids depend on what was cut before: no text is told by them

    def streamer(self):
        return Detokenizer(lambda id: b"" if id in self.control else self.tokens[id])

    def ids(self, pieces):
        for piece in pieces:
            if piece in self.tokens[: len(self.control)]:
                yield self.tokens.index(piece)
            else:
                self.tokens.append(piece.encode() if isinstance(piece, str) else piece)
                yield len(self.tokens) - 1


def read(pieces, style=PLAIN, marks=(), **options):
    tokenizer = Letters(marks)
    reader, parts = answer_reader(tokenizer, style, **options), []
    for id in tokenizer.ids(pieces):
        parts += reader.push(id)
        if reader.stopped is not None:
            break
    parts += reader.flush()
    got = joined(parts)
    return Answer(got.text, got.thinking, tuple((name, arguments) for _, name, arguments in got.calls)), reader


def style(name):
    return style_of(FORMATS[name].source)


ARGUMENTS = '{"city": "Rome </tool_call> \\" } [ARGS]", "days": [1, {"a": null}]}'
CASES = {
    "thought and answer": ("qwen3", "<think>\nhm, <b>\n</think>\n\nYes.", ("Yes.", "hm, <b>", [])),
    "no thought": ("qwen3", "Just yes.\n\nAnd no.", ("Just yes.\n\nAnd no.", "", [])),
    "the tag is quoted": ("qwen3", "Write <think> and </think>.", ("Write <think> and </think>.", "", [])),
    "empty thought": ("qwen3", "<think>\n\n</think>\n\nYes", ("Yes", "", [])),
    "a call": ("qwen3", f'<tool_call>\n{{"name": "f", "arguments": {ARGUMENTS}}}\n</tool_call>', ("", "", [("f", ARGUMENTS)])),
    "two calls after words": (
        "qwen3",
        'Let me see.\n<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\n{"arguments": {"a": 1}, "name": "g"}\n</tool_call>',
        ("Let me see.", "", [("f", "{}"), ("g", '{"a": 1}')]),
    ),
    "no arguments": ("qwen3", '<tool_call>{"name": "f"}</tool_call>', ("", "", [("f", "{}")])),
    "arguments in a string": ("qwen3", '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', ("", "", [("f", '{"a": 1}')])),
    "what is no call behind words": ("qwen3", "See <tool_call> nonsense </tool_call>.", ("See <tool_call> nonsense </tool_call>.", "", [])),
    "what is no call": ("qwen3", "<tool_call>nonsense</tool_call> then", ("<tool_call>nonsense</tool_call> then", "", [])),
    "mistral 3": ("mistral-v3", '[TOOL_CALLS] [{"name": "f", "arguments": {"a": "]"}}, {"name": "g", "arguments": {}}]', ("", "", [("f", '{"a": "]"}'), ("g", "{}")])),
    "mistral 11": ("mistral-v11", '[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]223456789[ARGS]{}', ("", "", [("f", '{"a": 1}'), ("g", "{}")])),
    "mistral 13": ("mistral-v13", '[THINK]hm[/THINK][TOOL_CALLS]f[ARGS]{"a": 1}', ("", "hm", [("f", '{"a": 1}')])),
    "deepseek 3": (
        "deepseek-v3",
        'See:<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": "```"}\n```<｜tool▁call▁end｜>\n'
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>g\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        ("See:", "", [("f", '{"a": "```"}'), ("g", "{}")]),
    ),
    "deepseek 3.1": (
        "deepseek-v3.1",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ("", "", [("f", '{"a": 1}')]),
    ),
    "phi": ("phi-4-mini", '<|tool_call|>[{"name": "f", "arguments": {"a": 1}}]<|/tool_call|>', ("", "", [("f", '{"a": 1}')])),
    "llama": ("llama-3.1", '{"name": "f", "parameters": {"a": 1}}', ("", "", [("f", '{"a": 1}')])),
    "two of llama's": ("llama-3.1", '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', ("", "", [("f", '{"a": 1}'), ("g", "{}")])),
    "a list of llama's": ("llama-3.1", '[{"name": "f", "parameters": {}}, {"name": "g", "parameters": {"a": 1}}]', ("", "", [("f", "{}"), ("g", '{"a": 1}')])),
    "a built-in tool of llama's": ("llama-3.1", '<|python_tag|>f.call(query="a \\"b\\", (c")', ("", "", [("f", '{"query": "a \\"b\\", (c"}')])),
    "llama's python": ("llama-3.1", "<|python_tag|>print(1)", ("<|python_tag|>print(1)", "", [])),
    "calls in python": (
        "llama-3.2",
        "[f(a='x, \\'y\\')]', b=[1, {'c': None}], d=True), g()]",
        ("", "", [("f", """{"a": "x, 'y')]", "b": [1, {"c": null}], "d": true}"""), ("g", "{}")]),
    ),
    "llama 4's": ("llama-4", "[f(a=-1.5, b=null)]", ("", "", [("f", '{"a": -1.5, "b": null}')])),
    "a list that is no call": ("llama-3.2", "[1] See (this), [h(a=1)].", ("[1] See (this), [h(a=1)].", "", [])),
    "what phi was not offered": ("phi-4-mini", "See functools [1].", ("See functools [1].", "", [])),
    "phi's other mark": ("phi-4-mini", 'functools[{"name": "f", "arguments": {"a": 1}}]', ("", "", [("f", '{"a": 1}')])),
    "json that is no call": ("llama-3.1", '{"name": "Ada", "age": 36}', ('{"name": "Ada", "age": 36}', "", [])),
    "llama's words": ("llama-3.1", "It is { sunny }.", ("It is { sunny }.", "", [])),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_parsing_does_not_depend_on_how_text_is_divided(case, data):
    name, text, (said, thought, calls) = CASES[case]
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    got, _ = read(pieces, style(name), tools=["f", "g"])
    assert got == Answer(said, thought, tuple(calls))
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in got.calls)


@pytest.mark.parametrize(
    "case", [name for name in CASES if name not in ("what is no call", "what is no call behind words", "the tag is quoted")]
)
def test_markers_that_are_tokens_mean_the_same(case):
    name, text, (said, thought, calls) = CASES[case]
    chosen = style(name)
    marks = chosen.markers
    if "</tool_call> \\" in text:
        text = text.replace("Rome </tool_call>", "Rome")  # as text it is told apart; see below
        calls = [(name, arguments.replace("Rome </tool_call>", "Rome")) for name, arguments in calls]
    pieces = [text]
    for mark in marks:
        pieces = [part for piece in pieces for part in _parted(piece, mark, marks)]
    got, _ = read(pieces, chosen, marks, tools=["f", "g"])
    assert got == Answer(said, thought, tuple(calls))


def _parted(piece, mark, marks):
    if piece in marks:
        return [piece]
    first, *rest = piece.split(mark)
    return [part for part in (first, *(p for r in rest for p in (mark, r))) if part]


def test_text_that_spells_a_marker_is_text_where_the_marker_is_a_token():
    chosen = style("qwen3")
    got, _ = read(
        ["<thi", "nk>a", "<tool_call>", '{"name": "f", "arguments": {"a": "</tool', '_call>"}}', "</tool_call>"],
        chosen,
        chosen.markers,
        tools=["f"],
    )
    assert got == Answer("<think>a", "", (("f", '{"a": "</tool_call>"}'),))


def test_a_prompt_that_ends_inside_a_thought():
    got, _ = read(["hm", "</th", "ink>\n\nYes"], style("deepseek-r1"), thinking=True)
    assert got == Answer("Yes", "hm", ())
    got, reader = read(["hm\n"], style("deepseek-r1"), thinking=True)
    assert got == Answer("", "hm", ())
    assert reader.thinking


def test_calls_are_text_where_no_tools_were_offered():
    text = '<tool_call>{"name": "f"}</tool_call>'
    assert read([text], style("qwen3"))[0] == Answer(text, "", ())


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_stop_string_ends_text_but_not_reasoning(data):
    raw = b"<think>one STOP two</think>three STOP four"
    cuts = sorted(data.draw(st.sets(st.integers(1, len(raw) - 1), max_size=12)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    got, reader = read(pieces, style("qwen3"), stops=["STOP"])
    assert got == Answer("three ", "one STOP two", ())
    assert reader.stopped == "STOP"


@settings(deadline=None, max_examples=100)
@given(text=st.text(max_size=30), data=st.data())
def test_plain_text_is_what_was_written(text, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=5)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert read(pieces)[0] == Answer(text, "", ())


CODER = style_of("<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>")
SCHEMAS = {
    "weather": {"properties": {"city": {"type": "string"}, "state": {"type": "string"}, "unit": {"enum": ["K", "C"]}}},
    "area": {
        "properties": {
            "shape": {"type": "string"},
            "dimensions": {"type": "object"},
            "precision": {"type": "integer"},
            "scale": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "exact": {"type": "boolean"},
            "title": {"type": ["string", "null"]},
            "any": {},
        }
    },
}


def tagged(name, **values):
    parameters = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


EXAMPLE = tagged("weather", city="Rome")
TAGGED = {
    "strings": (tagged("weather", city="Dallas", state="007", unit="K"), "", [("weather", {"city": "Dallas", "state": "007", "unit": "K"})]),
    "types": (
        tagged("area", shape="null", dimensions='{"width": 10, \n "height": [20]}', precision="2", scale="1.50", exact="True", title="3", any="[4]"),
        "",
        [("area", {"shape": "null", "dimensions": {"width": 10, "height": [20]}, "precision": 2, "scale": 1.5, "exact": True, "title": "3", "any": [4]})],
    ),
    "null": (tagged("area", scale="null", title="None", precision="null"), "", [("area", {"scale": None, "title": None, "precision": None})]),
    "nothing of the type": (
        tagged("area", precision="two", scale="nan", exact="maybe", dimensions="{'a': True}", any="{x"),
        "",
        [("area", {"precision": "two", "scale": "nan", "exact": False, "dimensions": {"a": True}, "any": "{x"})],
    ),
    "a whole number": (tagged("area", scale="3.0"), "", [("area", {"scale": 3})]),
    "several lines": (tagged("weather", city="\n a <b>\n\n</parameter> \n"), "", [("weather", {"city": "\n a <b>\n\n</parameter> \n"})]),
    "what is not declared": (tagged("weather", zip="1234"), "", [("weather", {"zip": "1234"})]),
    "a tool that was not offered": (tagged("other", a="1"), "", [("other", {"a": "1"})]),
    "no arguments": ("<tool_call><function=weather></function></tool_call>", "", [("weather", {})]),
    "two calls after words": (f"I see.\n{EXAMPLE}\n{EXAMPLE}", "I see.", [("weather", {"city": "Rome"})] * 2),
    "a call within a value": (tagged("weather", city=f"so:\n{EXAMPLE}", state="TX"), "", [("weather", {"city": f"so:\n{EXAMPLE}", "state": "TX"})]),
    "no end tag of a value": (EXAMPLE.replace("Rome\n</parameter>", "Rome\n<parameter=state>\nTX\n</parameter>"), "", [("weather", {"city": "Rome", "state": "TX"})]),
    "nor of the last": (EXAMPLE.replace("</parameter>\n", ""), "", [("weather", {"city": "Rome"})]),
    "no end": (EXAMPLE.replace("\n</function>\n</tool_call>", ""), "", [("weather", {"city": "Rome"})]),
    "no end at all": (EXAMPLE[: EXAMPLE.index("\n</param")], "", [("weather", {"city": "Rome"})]),
    "words between tags": (EXAMPLE.replace("<parameter", "Well: <b> <parameter"), "", [("weather", {"city": "Rome"})]),
    "no marker": (f"I see. {EXAMPLE.removeprefix('<tool_call>').lstrip()}", "I see.", [("weather", {"city": "Rome"})]),
    "no marker and no tool": ("#include <function=a>", "#include <function=a>", []),
    "no call": ("<tool_call>\n<function={{ name }}>\n</function></tool_call>", "<tool_call>\n<function={{ name }}>\n</function></tool_call>", []),
}  # fmt: skip


@pytest.mark.parametrize("marks", [(), ("<tool_call>", "</tool_call>")], ids=["text", "tokens"])
@pytest.mark.parametrize("case", TAGGED)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_calls_in_tags_have_values_of_their_types(case, marks, data):
    text, said, calls = TAGGED[case]
    pieces = [text]
    for mark in marks:
        pieces = [part for piece in pieces for part in _parted(piece, mark, marks)]
    cut = []
    for piece in pieces:
        raw = piece.encode()
        cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) - 1)), max_size=6)))
        cut += [piece] if piece in marks else [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    got, _ = read(cut, CODER, marks, tools=SCHEMAS)
    assert got.text == said
    assert [(name, json.loads(arguments)) for name, arguments in got.calls] == calls


def test_control_tokens_of_calls_are_no_text_where_no_tools_are_offered():
    got, _ = read(["I see. ", "[TOOL_CALLS]", "the loom"], style("mistral-v3"), marks=["[TOOL_CALLS]"])
    assert (got.text, got.calls) == ("I see. the loom", ())


def test_arguments_without_names_are_the_next_ones():
    got, _ = read(["[area('square', precision=3, exact=f(1))]"], style("llama-3.2"), tools=SCHEMAS)
    assert [json.loads(arguments) for _, arguments in got.calls] == [{"shape": "square", "precision": 3, "exact": "f(1)"}]


@settings(deadline=None, max_examples=200)
@given(
    pieces=st.lists(
        st.sampled_from(["[", "]", "f(", "g(", ")", "a=", '"', "'", "\\\\", ",", "1", " ", "{", "f.call(", "<|python_tag|>"]),
        max_size=14,
    )
)
def test_no_order_of_python_breaks_the_reader(pieces):
    text = "".join(pieces)
    assert read(list(text), style("llama-3.1"), tools=["f"])[0] == read([text], style("llama-3.1"), tools=["f"])[0]


def test_lone_surrogates_stay_escaped():
    (call,) = read([tagged("area", dimensions='["\\ud800", "é"]')], CODER, tools=SCHEMAS)[0].calls
    assert call[1].encode() == b'{"dimensions": ["\\ud800", "\\u00e9"]}'
    (call,) = read(["[f(a='\\ud800')]"], style("llama-3.2"), tools=["f"])[0].calls
    assert call[1].encode() == b'{"a": "\\ud800"}'


def test_styles_of_calls_are_told_apart():
    assert CODER.tools.name == "qwen3-coder"
    assert style("qwen3").tools.name == "hermes"


@settings(deadline=None, max_examples=200)
@given(pieces=st.lists(st.sampled_from(["<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "\n", "x", "<", "</parameter>", "<parameter=b>"]), max_size=14))  # fmt: skip
def test_no_order_of_tags_breaks_the_reader(pieces):
    schemas = {"f": {"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}}
    whole = read(["".join(pieces)], CODER, tools=schemas)[0]
    assert read(list("".join(pieces)), CODER, tools=schemas)[0] == whole
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in whole.calls)


@settings(deadline=None, max_examples=300)
@given(
    text=st.text(alphabet='<>/tolcahink_{}[]()=":,\\ \nfg', max_size=60),
    name=st.sampled_from(["qwen3", "mistral-v11", "llama-3.1", "deepseek-v3"]),
)
def test_nothing_that_a_model_writes_breaks_the_reader(text, name):
    whole = read([text], style(name), tools=["f"])[0]
    assert read(list(text), style(name), tools=["f"])[0] == whole


HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|constrain|>", "<|call|>", "<|return|>")


@pytest.mark.parametrize("header", ["commentary to=functions.f ", " to=functions.f"])
def test_channels(header):
    call = (
        [" to=functions.f", "<|channel|>", "commentary json"]
        if header.startswith(" ")
        else ["<|channel|>", header, "<|constrain|>", "json"]
    )
    pieces = ["<|channel|>", "analysis", "<|message|>", "hm ", "<|end|>", "<|start|>", "assistant", *call, "<|message|>", '{"a":', " 1}", "<|call|>"]  # fmt: skip
    assert read(pieces, style("harmony"), HARMONY, tools=["f"])[0] == Answer("", "hm ", (("f", '{"a": 1}'),))
    pieces = ["<|channel|>", "final", "<|message|>", "Yes", "<|return|>"]
    assert read(pieces, style("harmony"), HARMONY)[0] == Answer("Yes", "", ())


def test_a_header_without_an_end_takes_no_quadratic_time():
    tokenizer = byte_tokenizer(FORMATS["harmony"].source)
    reader = answer_reader(tokenizer, style("harmony"), tools=["f"])
    for id in tokenizer.encode("the loom " * 2000):
        assert not reader.bound
        assert reader.leading() == {tokenizer.id_of("<|channel|>")}
        reader.push(id)


@pytest.mark.parametrize("name", ["qwen3", "chatml", "harmony"])
def test_a_continued_answer_keeps_its_first_space(name):
    marks = HARMONY if name == "harmony" else ()
    assert read([" ", "is", "\n"], style(name), marks, begun=True, tools=["f"])[0] == Answer(" is\n", "", ())
    if name != "harmony":
        assert read([" is <think>"], style(name), begun=True)[0] == Answer(" is <think>", "", ())
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    if name == "qwen3":
        assert read([" so:", call], style(name), begun=True, tools=["f"])[0] == Answer(" so:", "", (("f", "{}"),))


def test_the_space_that_marks_a_word_is_text_where_an_answer_goes_on():
    class Sentence(Letters):
        def streamer(self):
            return Detokenizer(lambda id: self.tokens[id], strip=True)

    for begun, text in ((False, "is"), (True, " is")):
        tokenizer = Sentence()
        reader = answer_reader(tokenizer, PLAIN, begun=begun)
        (id,) = tokenizer.ids([" is"])
        assert joined([*reader.push(id), *reader.flush()]).text == text


@pytest.mark.parametrize(
    ("name", "begun"), [("qwen3", '\n{"na'), ("mistral-v3", '[{"na'), ("llama-3.1", '{"na'), ("deepseek-v3", "functi")]
)
def test_a_call_truncated_before_its_name_is_dropped(name, begun):
    marker = style(name).tools.begin[0]
    for pieces in ([marker], [marker, begun]):
        for must_call in (False, True):
            reader = answer_reader(tokenizer := Letters([marker]), style(name), tools=["f"], must_call=must_call)
            parts = [part for id in tokenizer.ids(pieces) for part in reader.push(id)]
            assert joined([*parts, *reader.flush(cut=True)]) == Answer("", "", ())


def test_an_answer_that_must_call_has_no_text():
    reader = answer_reader(tokenizer := Letters(), style("llama-3.1"), tools=["f"], must_call=True)
    parts = [part for id in tokenizer.ids(['{"name": ']) for part in reader.push(id)]
    assert joined([*parts, *reader.flush(cut=True)]) == Answer("", "", ())
