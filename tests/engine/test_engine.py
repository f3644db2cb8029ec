"""The engine on a tiny model: an answer depends on nothing but its request."""

from __future__ import annotations

import contextlib
import json
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import tiny_folder

import ordito
from ordito.engine.engine import Engine
from ordito.engine.grammar import Grammar
from ordito.engine.penalties import tokens_containing
from ordito.errors import ContextError, OrditoError
from ordito.text.formats import FORMATS

PROMPTS = ["the loom", "the warp and", "a weft", "warp warp warp warp", "the loom of the", "x"]


@pytest.fixture(scope="module", params=["native", "torch"])
def model(request, folder):
    return ordito.load(folder, backend=request.param)


@pytest.fixture
def engine(model):
    return Engine(model)


def finished(stream):
    for _ in stream.deltas():
        pass
    return stream.results


def alone(model, prompt, **settings):
    return finished(Engine(model).submit(prompt, speculate=False, **settings))


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_batched_answers_equal_single_ones(model, engine, temperature):
    asked = [{"max_tokens": 5 + 3 * i, "temperature": temperature, "seed": i} for i in range(len(PROMPTS))]
    streams = [engine.submit(prompt, **one) for prompt, one in zip(PROMPTS, asked, strict=True)]
    for prompt, one, stream in zip(PROMPTS, asked, streams, strict=True):
        assert finished(stream)[0].token_ids == alone(model, prompt, **one)[0].token_ids


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_requests_and_cancellations_in_any_order(model, data):
    """Requests are submitted and cancelled at any time; the others get the answers that they get alone, and no memory leaks."""
    engine = Engine(model, most_together=data.draw(st.integers(1, 4)))
    prompts = data.draw(st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=6))
    streams = []
    for number, prompt in enumerate(prompts):
        streams.append(engine.submit(prompt, max_tokens=8, temperature=1.0, seed=number))
        for _ in range(data.draw(st.integers(0, 3))):
            engine.step()
        if data.draw(st.booleans()) and number % 2:
            streams[data.draw(st.integers(0, number))].cancel()
    for number, (prompt, stream) in enumerate(zip(prompts, streams, strict=True)):
        got = finished(stream)[0]
        whole = alone(model, prompt, max_tokens=8, temperature=1.0, seed=number)[0]
        if got.finish_reason == "cancelled":
            assert got.token_ids == whole.token_ids[: len(got.token_ids)]
        else:
            assert got.token_ids == whole.token_ids
    assert engine.idle
    assert engine.counts.failed == 0


def test_the_prefix_cache_is_used(model, engine):
    prompt = "the warp and the weft of a loom"
    first, second = (finished(engine.submit(prompt, max_tokens=6))[0] for _ in range(2))
    assert first.cached_tokens == 0
    assert second.cached_tokens == second.prompt_tokens - 1
    assert second.token_ids == first.token_ids
    assert second.missed == ""
    other = finished(engine.submit("the warp and a loom", max_tokens=6))[0]
    assert 0 < other.cached_tokens < other.prompt_tokens - 1
    assert f"token {other.cached_tokens} is" in other.missed
    assert other.token_ids == alone(model, "the warp and a loom", max_tokens=6)[0].token_ids


def test_users_do_not_share_the_prefix_cache(engine):
    finished(engine.submit("the warp and the weft", max_tokens=2, user="a"))
    assert finished(engine.submit("the warp and the weft", max_tokens=2, user="b"))[0].cached_tokens == 0
    assert finished(engine.submit("the warp and the weft", max_tokens=2, user="a"))[0].cached_tokens > 0


def test_a_prompt_is_shared_with_one_that_is_still_answered(engine):
    first = engine.submit("the warp and the weft", max_tokens=20, ignore_end=True)
    for _ in range(3):
        engine.step()
    second = finished(engine.submit("the warp and the weft", max_tokens=2))[0]
    assert second.cached_tokens == second.prompt_tokens - 1
    assert finished(first)[0].token_ids[:2] == second.token_ids


def test_prompts_that_arrive_together_are_read_once(model, engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 20)  # so that the prefill takes several steps
    monkeypatch.setattr("ordito.engine.engine.SHARED", 20)
    prefix = "warp and the loom weft x " * 6
    ends = ["", "", "a", "the weft", "x"]
    streams = [engine.submit(prefix + end, max_tokens=6) for end in ends]
    other = engine.submit("a weft", max_tokens=3)
    stranger = engine.submit(prefix, max_tokens=3, user="stranger")
    engine.step()
    # The first of the alike, and those that have nothing to wait for.
    assert [one.box for one in engine.running] == [streams[0].box, stranger.box, other.box]
    shared = len(model.tokenizer.encode(prefix))
    for number, (end, stream) in enumerate(zip(ends, streams, strict=True)):
        (result,) = finished(stream)
        assert result.token_ids == alone(model, prefix + end, max_tokens=6)[0].token_ids
        assert (result.cached_tokens > shared - 5) == (number > 0)
    assert finished(stranger)[0].cached_tokens == 0
    assert finished(other)
    assert engine.idle


def test_whoever_waits_for_a_prefill_that_is_cancelled_goes_on(engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.SHARED", 20)
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 20)
    first, second = (engine.submit("warp and the loom weft x " * 6, max_tokens=4) for _ in range(2))
    engine.step()
    assert len(engine.running) == 1
    first.cancel()
    assert finished(second)[0].finish_reason in ("stop", "length")


def test_several_answers_share_a_prompt(model, engine):
    results = finished(engine.submit("the loom", n=4, temperature=1.5, seed=3, max_tokens=10))
    assert len({tuple(result.token_ids) for result in results}) > 1
    again = finished(Engine(model, most_together=2).submit("the loom", n=4, temperature=1.5, seed=3, max_tokens=10))
    assert [result.token_ids for result in again] == [result.token_ids for result in results]
    greedy = finished(engine.submit("the loom", n=3, max_tokens=6))
    assert len({tuple(result.token_ids) for result in greedy}) == 1


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_speculative_decoding_changes_nothing(model, temperature):
    prompt = "warp weft loom " * 4
    asked = {"max_tokens": 24, "temperature": temperature, "seed": 5, "ignore_end": True, "logit_bias": {40: 20.0, 41: 19.0}}
    with_guesses = finished(Engine(model).submit(prompt, **asked))[0]
    without = alone(model, prompt, **asked)[0]
    assert with_guesses.drafted > 0 == without.drafted
    assert with_guesses.token_ids == without.token_ids


@pytest.mark.parametrize("temperature", [0.0, 1.2])
@pytest.mark.parametrize("same", [True, False])
def test_a_draft_model_changes_nothing(model, tmp_path, temperature, same):
    draft = model if same else ordito.load(tiny_folder(tmp_path, 64, seed=1))
    asked = {"max_tokens": 30, "temperature": temperature, "seed": 5, "ignore_end": True}
    got = finished(Engine(model, draft=draft).submit("the warp and the", **asked))[0]
    assert got.token_ids == alone(model, "the warp and the", **asked)[0].token_ids
    assert got.drafted > 0
    if same and not temperature:
        assert got.accepted == got.drafted


def test_prompts_are_read_in_chunks_of_about_a_second(model, monkeypatch):
    """At 40 tokens a second, which the first prompt shows."""
    read, step = [], model.runtime.step

    def slow(parts, *others):
        read.append(sum(len(ids) for _, ids in parts))
        return step(parts, *others)

    monkeypatch.setattr(model.runtime, "step", slow)
    monkeypatch.setattr("ordito.engine.engine.time", SimpleNamespace(perf_counter=lambda: sum(read) / 40))
    engine = Engine(model)
    for first in (1, 2):
        finished(engine.submit(replace(model.prepare("the", max_tokens=1), prompt=[first] + [5] * 59)))
    assert read == [60, 40, 20]


def test_a_draft_model_of_another_vocabulary_is_refused(model, tmp_path):
    other = ordito.load(tiny_folder(tmp_path, 64, text="something else entirely, with other words in it"))
    with pytest.raises(OrditoError, match="another vocabulary"):
        Engine(model, draft=other)


def test_a_cancelled_answer_ends_within_a_step(engine):
    stream = engine.submit("the loom", max_tokens=40, ignore_end=True)
    other = engine.submit("a weft", max_tokens=40, ignore_end=True)
    for _ in range(3):
        engine.step()
    stream.cancel()
    engine.step()
    assert len(engine.running) == 1
    assert finished(stream)[0].finish_reason == "cancelled"
    assert len(finished(other)[0].token_ids) == 40


def test_a_stream_without_a_reference_is_cancelled(engine):
    engine.submit("the loom", max_tokens=40, ignore_end=True)
    finished(engine.submit("a weft", max_tokens=2))
    assert engine.counts.cancelled == 1


def test_a_long_prompt_does_not_stop_others(engine, monkeypatch):
    monkeypatch.setattr("ordito.engine.engine.MAX_CHUNK", 8)
    monkeypatch.setattr("ordito.engine.engine.MIN_CHUNK", 1)
    talking = engine.submit("the loom", max_tokens=30, ignore_end=True)
    engine.step()
    reading = engine.submit("w " * 20, max_tokens=1)
    made = []
    while reading.box.left:
        engine.step()
        made.append(engine.running[0].made)
    assert len(made) > 2
    assert made == list(range(made[0], made[0] + len(made)))  # a token for each step
    finished(talking)


def test_users_take_turns(model):
    engine = Engine(model, most_together=1)
    streams = {
        (user, i): engine.submit("the loom", max_tokens=2, ignore_end=True, user=user) for user in "ab" for i in range(3)
    }
    order = []
    while not engine.idle:
        engine.step()
        order += [key for key, stream in streams.items() if not stream.box.left and key not in order]
    assert [user for user, _ in order] == list("ababab")


def test_a_preempted_answer_is_computed_again(folder):
    model = ordito.load(folder, backend="native")
    base = model.runtime.cache_bytes()
    engine = Engine(model, cache_limit=base + 40_000)
    asked = [{"max_tokens": 40, "ignore_end": True, "temperature": 1.0, "seed": i} for i in range(6)]
    streams = [engine.submit("the loom", **one) for one in asked]
    got = [finished(stream)[0] for stream in streams]
    assert engine.counts.preempted > 0
    assert [one.token_ids for one in got] == [alone(model, "the loom", **one)[0].token_ids for one in asked]


def test_what_is_kept_for_later_prompts_stays_within_the_limit(folder):
    model = ordito.load(folder, backend="native")
    base = model.runtime.cache_bytes()
    engine, sizes = Engine(model, cache_limit=base + 40_000), []
    for prompt in PROMPTS:
        finished(engine.submit(prompt, max_tokens=40, ignore_end=True))
        sizes.append(model.runtime.cache_bytes() - base)
    assert 0 < max(sizes) <= 40_000 + sizes[0]


def test_answers_without_room_wait(folder):
    model = ordito.load(folder, backend="native")
    engine = Engine(model, cache_limit=model.runtime.cache_bytes() + 120_000)
    streams = [engine.submit(f"{i}{'the loom ' * 20}", max_tokens=40, ignore_end=True) for i in range(12)]
    for stream in streams:
        finished(stream)
    assert 0 < engine.counts.preempted < 30  # 108 when admission did not count what running answers have yet to allocate


def test_every_block_is_free_at_the_end(folder):
    model = ordito.load(folder, backend="native")
    before = model.runtime.cache_bytes()
    engine = Engine(model)
    streams = [engine.submit(prompt, max_tokens=8, n=2) for prompt in PROMPTS]
    streams[2].cancel()
    for stream in streams:
        finished(stream)
    assert model.runtime.cache_bytes() > before
    engine.close()
    assert model.runtime.cache_bytes() == before


def test_logprobs_are_those_of_the_logits(model, engine):
    import numpy as np

    result = finished(engine.submit("the loom", max_tokens=4, logprobs=3, prompt_logprobs=2, ignore_end=True))[0]
    ids = [*result.prompt_ids, *result.token_ids]
    logits = model.logits(ids[:-1]).astype(np.float64)
    logs = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) - logits.max(1, keepdims=True)
    tokens = [*result.prompt, *result.tokens]
    assert [token.id for token in tokens] == ids
    assert tokens[0].logprob is None
    for row, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(logs[row, token.id], abs=1e-4)
        assert token.top[0][1] == pytest.approx(logs[row].max(), abs=1e-4)
    assert len(result.tokens[0].top) == 3
    assert len(result.prompt[1].top) == 2


def test_scoring_several_times_ends_as_often(engine):
    stream = engine.submit("the warp and the weft", max_tokens=0, prompt_logprobs=1, n=2)
    for _ in range(100):
        if not engine.step():
            break
    first, second = finished(stream)
    assert first.finish_reason == second.finish_reason == "length"
    assert first.token_ids == second.token_ids == []


def test_the_first_delta_brings_the_prompt(engine):
    deltas = list(engine.submit("the warp and the weft", max_tokens=4, ignore_end=True, prompt_logprobs=1, n=3).deltas())
    assert deltas[0].prompt
    assert not any(delta.prompt for delta in deltas[1:])


def test_scoring_makes_no_token(engine):
    result = finished(engine.submit("the loom", max_tokens=0, prompt_logprobs=0))[0]
    assert result.token_ids == []
    assert len(result.prompt) == result.prompt_tokens


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"n": 17}, "n is 17"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stop": [""]}, "stop is"),
        ({"min_tokens": True}, "min_tokens is True"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"logit_bias": {1: 500}}, "logit_bias of token 1 is 500"),
        ({"nonsense": 1}, "unknown setting 'nonsense'"),
    ],
)
def test_settings_out_of_range_are_refused(engine, settings, message):
    with pytest.raises(OrditoError, match=message):
        engine.submit("the", **settings)


def test_a_prompt_without_tokens_is_refused(engine):
    with pytest.raises(OrditoError, match="the prompt has no tokens"):
        replace(engine.model.prepare("the"), prompt=[])


def test_a_prompt_too_long_says_both_numbers(engine):
    with pytest.raises(ContextError, match="context holds 64") as told:
        engine.submit("w " * 300)
    assert told.value.context == 64
    assert told.value.tokens == 301


def test_no_end_before_min_tokens(engine):
    assert len(finished(engine.submit("the loom", min_tokens=20, max_tokens=30))[0].token_ids) >= 20


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0, "top_k": 3},
        {"temperature": 1.0, "top_k": 3, "top_p": 0.7, "min_p": 0.1, "n": 2},
        {"temperature": 1.0},
        {"temperature": 1.0, "top_p": 0.5},
        {"temperature": 1.0, "top_k": 3, "top_n_sigma": 1.0},
        {"temperature": 1.0, "top_k": 3, "mirostat": 2},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 2.0},
        {"dry_multiplier": 2.0},
        {"logit_bias": {20: 5.0}},
        {"min_tokens": 4},
        {"logprobs": 2},
        {"prompt_logprobs": 2},
        {"grammar": Grammar("regex", r"[a-c]{3}-\d")},
    ],
    ids=lambda settings: "-".join(settings) or "greedy",
)
def test_a_runtime_may_give_no_more_than_was_asked_for(model, monkeypatch, settings):
    asked = {"max_tokens": 8, "seed": 1, "ignore_end": "min_tokens" not in settings} | settings

    def answers():
        engine = Engine(model)
        streams = [engine.submit(prompt, **one) for prompt in PROMPTS[:2] for one in (asked, asked | {"speculate": False})]
        return [[(one.tokens, one.prompt) for one in finished(stream)] for stream in streams]

    expected, step, given = answers(), model.runtime.step, []

    def no_more(parts, wanted, greatest=0):
        rows = step(parts, wanted).copy()
        given.append(greatest)
        for row in rows:
            if greatest:
                row[np.argsort(-row, kind="stable")[greatest:]] = -np.inf
        return rows

    monkeypatch.setattr(model.runtime, "step", no_more)
    assert answers() == expected
    of_few = {"top_k", "top_p", "min_p", "temperature", "n", "min_tokens", "prompt_logprobs"}
    greedy = settings.keys() <= {"min_tokens", "prompt_logprobs"}
    assert any(given) == (settings.keys() <= of_few and (greedy or "top_k" in settings))


def test_a_failing_runtime_fails_its_requests_only(engine, monkeypatch):
    step, left = engine.runtime.step, [2]

    def failing(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        return step(*arguments)

    monkeypatch.setattr(engine.runtime, "step", failing)
    engine.start()
    with pytest.raises(RuntimeError):
        finished(engine.submit("the loom", max_tokens=10, ignore_end=True))
    assert len(finished(engine.submit("the loom", max_tokens=10, ignore_end=True))[0].token_ids) == 10
    engine.close()


@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_grammar_that_cannot_be_followed_fails_its_own_request_only(model, engine, own_thread, n):
    expected = alone(model, "the loom", max_tokens=10, ignore_end=True)[0].token_ids
    if own_thread:
        engine.start()
    others = [engine.submit("the loom", max_tokens=10, ignore_end=True) for _ in range(2)]
    bad = engine.submit("the loom", grammar=Grammar("lark", 'start: "a" rest\nrest: rest'), max_tokens=10, n=n)
    with pytest.raises(OrditoError, match="too hard to follow"):
        finished(bad)
    assert [finished(other)[0].token_ids for other in others] == [expected] * 2
    assert list(bad.deltas()) == []
    assert engine.counts.failed == n
    engine.close()


@pytest.mark.parametrize("part", ["_enter", "_admit", "_batch"])
def test_the_thread_of_an_engine_outlives_any_failure(engine, monkeypatch, part):
    class Panic(BaseException):
        """Like a panic in Rust, which is not an `Exception`."""

    before, left = getattr(engine, part), [1]

    def failing(*arguments):
        if left[0] and (part != "_batch" or engine.running):
            left[0] -= 1
            raise ValueError if part == "_enter" else Panic
        return before(*arguments)

    monkeypatch.setattr(engine, part, failing)
    engine.start()
    with contextlib.suppress(RuntimeError):
        finished(engine.submit("the loom", max_tokens=3, ignore_end=True))
    assert left == [0]
    assert len(finished(engine.submit("the loom", max_tokens=3, ignore_end=True))[0].token_ids) == 3
    engine.close()


def test_threads_share_an_engine(model, engine):
    expected = {prompt: alone(model, prompt, max_tokens=10)[0].token_ids for prompt in PROMPTS}
    got = {}

    def ask(prompt):
        got[prompt] = finished(engine.submit(prompt, max_tokens=10))[0].token_ids

    threads = [threading.Thread(target=ask, args=(prompt,)) for prompt in PROMPTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert got == expected


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


def test_dry_breakers_are_all_tokens_that_contain_one(model):
    bytes_of = model.tokenizer.vocabulary.bytes_of
    for texts in (("o",), ("th", "a"), ("\n", ":"), ("nowhere else",)):
        found = frozenset(
            id for id in range(model.tokenizer.vocab_size) if any(text.encode() in bytes_of(id) for text in texts)
        )
        assert tokens_containing(model.tokenizer, texts) == found


def test_a_text_that_cannot_fit_is_not_tokenized(model, monkeypatch):
    def never(*arguments):
        raise AssertionError("this takes seconds")

    monkeypatch.setattr(model.tokenizer, "_cut", never)
    for prompt in ("loom " * 100_000, [{"role": "user", "content": "loom " * 100_000}]):
        with pytest.raises(ContextError, match="at least") as told:
            model.engine.submit(prompt)
        assert told.value.tokens > 10_000


@pytest.mark.parametrize("text", ["the loom " * 50, "<|im_end|>" * 9, " " * 300, "é漢" * 40, ""])
def test_the_least_number_of_tokens_is_a_lower_bound(model, text):
    for special in (False, True):
        assert model.tokenizer.least(text) <= len(model.tokenizer.encode(text, add_special_tokens=False, parse_special=special))
