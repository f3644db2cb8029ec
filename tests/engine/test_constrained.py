"""Answers keep to their grammar, after their thought and beside calls of tools."""

from __future__ import annotations

import json

import pytest
from asking import finished
from tiny_model import tiny_folder

import ordito
from ordito.engine.grammar import Grammar
from ordito.errors import OrditoError
from ordito.text.formats import FORMATS


@pytest.mark.parametrize(
    ("grammar", "matches"),
    [
        (Grammar("regex", r"[a-c]{3}-\d"), lambda text: len(text) == 5 and text[3] == "-"),
        (Grammar.choice(["loom", "warp"]), lambda text: text in ("loom", "warp")),
        (Grammar.json_schema({"enum": ["x", 3]}), lambda text: text in ('"x"', "3")),
        (Grammar("lark", 'start: "a" "b"+ "c"'), lambda text: text.startswith("ab")),
        (Grammar("gbnf", 'root ::= "yes" | "no"'), lambda text: text in ("yes", "no")),
    ],
)
def test_answers_keep_to_their_grammar(engine, grammar, matches):
    for seed in range(3):
        result = finished(engine.submit("the", grammar=grammar, max_tokens=30, temperature=1.5, seed=seed))[0]
        assert matches(result.text), result.text


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        (lambda: Grammar("regex", "("), "regex cannot be used"),
        (lambda: Grammar("regex", "(" * 100), "nested deeper"),
        (lambda: Grammar("lark", "start: nothing"), "lark cannot be used"),
        (lambda: Grammar("lark", "start: start"), "lark cannot be used"),
        (lambda: Grammar.json_schema({"$ref": "#"}), "json_schema cannot be used"),
        (lambda: Grammar("json_schema", "{"), "json_schema cannot be used"),
        (lambda: Grammar.json_schema({"type": "no such type"}), "json_schema cannot be used"),
        (lambda: Grammar("regex", "a" * 300_000), "expected at most"),
        (lambda: Grammar.choice([]), "list of texts"),
    ],
)
def test_invalid_grammars_are_refused(engine, grammar, message):
    with pytest.raises(OrditoError, match=message):
        engine.submit("the", grammar=grammar(), max_tokens=3)


def test_a_schema_that_is_too_deep_is_refused():
    schema: dict = {}
    for _ in range(100):
        schema = {"properties": {"a": schema}}
    with pytest.raises(OrditoError, match="deeper than"):
        Grammar.json_schema(schema)


@pytest.fixture
def thinker(folder, monkeypatch):
    """The tiny model with thoughts between markers that are no special tokens, and prompts that open a thought."""
    from ordito.text.chat import ChatTemplate

    model = ordito.load(folder)
    source = "{% for m in messages %}{{ m.content }}{% endfor %}<think>\n{# </think> #}"
    monkeypatch.setitem(vars(model), "template", ChatTemplate(source))
    return model


def test_a_thought_ends_when_its_budget_is_used_up(thinker):
    settings = {"thinking_budget": 5, "max_tokens": 40, "ignore_end": True}
    (result,) = finished(thinker.engine.submit([{"role": "user", "content": "the loom"}], **settings))
    assert result.thinking
    assert result.text
    assert result.thought_tokens >= 5
    assert "</think>" not in result.thinking + result.text
    (free,) = finished(thinker.engine.submit([{"role": "user", "content": "the loom"}], max_tokens=40, ignore_end=True))
    assert free.thinking
    assert free.text == ""


def test_a_grammar_begins_after_the_thought(thinker):
    settings = {"thinking_budget": 5, "max_tokens": 40, "grammar": Grammar.choice(["warp", "weft"])}
    (result,) = finished(thinker.engine.submit([{"role": "user", "content": "the loom"}], **settings))
    assert result.thinking
    assert result.text in ("warp", "weft")
    assert result.finish_reason == "stop"


HARMONY = ("<|start|>", "<|end|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|return|>")

QWEN = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_start|>{# <think> </think> <tool_call> #}"

WANTED = Grammar.json_schema({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]})


@pytest.mark.parametrize(
    ("control", "template"),
    [
        (HARMONY, FORMATS["harmony"].source.replace("<|return|>", "<|im_end|>")),
        (("<think>", "</think>"), QWEN),
        (("<think>", "</think>"), f"{QWEN}<think>\n"),
        (("<think>", "</think>"), f"{QWEN}<think>\n\n</think>\n\n"),
    ],
    ids=["gpt-oss", "the answer may open a thought", "the prompt opens it", "the prompt closes it"],
)
def test_a_grammar_binds_the_answer_and_not_its_thought(tmp_path, control, template):
    model = ordito.load(tiny_folder(tmp_path, 512, control=control, template=template))
    thoughts = 0
    for seed in range(40):
        settings = {"thinking_budget": 5, "max_tokens": 120, "grammar": WANTED, "temperature": 2.0, "seed": seed}
        (result,) = finished(model.engine.submit([{"role": "user", "content": "the loom"}], **settings))
        if result.finish_reason == "stop":
            assert json.loads(result.text)["a"] in (1, 2)
        thoughts += result.thought_tokens > 0
    assert thoughts == 0 if template.endswith("</think>\n\n") else thoughts > 0


TOOL = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "e": {"enum": ["x", "y"]}},
    "required": ["n"],
}

CALLING = {
    "gpt-oss": (HARMONY, FORMATS["harmony"].source.replace("<|return|>", "<|im_end|>")),
    "qwen 2.5": (("<tool_call>", "</tool_call>"), FORMATS["qwen2.5"].source),
    "qwen 3": (("<tool_call>", "</tool_call>", "<think>", "</think>"), FORMATS["qwen3"].source),
    "qwen 3 coder": (("<tool_call>", "</tool_call>"), FORMATS["qwen2.5"].source + "{# <function= <parameter= #}"),
    "mistral": (("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"), FORMATS["mistral-v11"].source),
    "phi": (("<|tool_call|>", "<|/tool_call|>"), FORMATS["phi-4-mini"].source),
}


@pytest.mark.parametrize("name", CALLING)
def test_an_answer_is_a_call_or_what_its_format_describes(tmp_path, name):
    control, template = CALLING[name]
    model = ordito.load(tiny_folder(tmp_path, 1024, control=control, template=template))
    tools = [{"type": "function", "function": {"name": "spin", "parameters": TOOL}}]
    seen, thoughts = set(), 0
    for seed in range(30):
        settings = {"tools": tools, "thinking_budget": 5, "max_tokens": 400, "temperature": 1.5, "seed": seed}
        for wanted in ({"grammar": WANTED}, {"must_call": ""}):
            answer = model.chat([{"role": "user", "content": "the loom"}], **settings, **wanted)
            if answer.finish_reason != "stop":
                continue
            seen.add(("must_call" in wanted, bool(answer.calls)))
            thoughts += bool(answer.thinking) and "must_call" in wanted
            for _, _, arguments in answer.calls:
                given = json.loads(arguments)
                assert type(given["n"]) is int
                assert given.get("e", "x") in ("x", "y")
            if answer.calls:
                assert answer.text == ""
            else:
                assert json.loads(answer.text)["a"] in (1, 2)
    assert seen == {(False, False), (False, True), (True, True)}
    assert (thoughts > 0) == (name in ("gpt-oss", "qwen 3"))


@pytest.mark.parametrize(
    "wanted", [Grammar.choice(["warp"]), Grammar("regex", "wa.p"), Grammar("gbnf", 'root ::= "wa" x\nx ::= "rp"')]
)
def test_formats_of_every_kind_stand_beside_calls(tmp_path, wanted):
    model = ordito.load(tiny_folder(tmp_path, 1024, control=CALLING["qwen 2.5"][0], template=CALLING["qwen 2.5"][1]))
    # A schema that cannot be followed leaves what is asked of the answer.
    for parameters, called in ((TOOL, True), ({"type": "object", "properties": {"a": {"type": "nonsense"}}}, False)):
        tools = [{"type": "function", "function": {"name": "spin", "parameters": parameters}}]
        answers = [
            model.chat(
                [{"role": "user", "content": "?"}], tools=tools, grammar=wanted, max_tokens=300, temperature=1.5, seed=seed
            )
            for seed in range(20)
        ]
        assert any(answer.calls for answer in answers) == called
        assert all(len(answer.text) == 4 for answer in answers if not answer.calls and answer.finish_reason == "stop")
