from __future__ import annotations

import re
from pathlib import Path

import pytest
from byte_tokenizer import byte_tokenizer, said
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ordito
from ordito.errors import OrditoError, TemplateError
from ordito.text.chat import ChatTemplate
from ordito.text.formats import FORMATS
from ordito.text.tokenizer import GUARD, Tokenizer
from ordito.train.chatting import Writer, text_of_completion
from ordito.train.task import Context, kind_named

SHARED = Path(__file__).parents[3] / "shared" / "assets"
PUBLISHED = sorted((SHARED / "chat-templates" / "published").glob("*.jinja"))
VOCABULARIES = sorted((SHARED / "tokenizer-goldens").glob("*.gguf"))
CHATML = FORMATS["chatml"].source

USER, ASSISTANT = {"role": "user", "content": "uno"}, {"role": "assistant", "content": "due"}
CHAT = [USER, ASSISTANT, {"role": "user", "content": "tre"}, {"role": "assistant", "content": "quattro"}]
THOUGHTS = [CHAT[0], {**CHAT[1], "reasoning_content": "Hm."}, CHAT[2], {**CHAT[3], "reasoning_content": "Sì."}]
CALL = {"id": "abcdefgh1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Forlì"}}}
CALLS = [
    {"role": "user", "content": "Che tempo fa?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "tool_call_id": "abcdefgh1", "content": "21"},
    {"role": "assistant", "content": "Sereno."},
]


def writer(template, **how):
    tokenizer = byte_tokenizer(template, **how)
    return Writer(ChatTemplate.for_tokenizer(tokenizer), tokenizer)


def learned(template, messages, learn="assistant"):
    made = writer(template)
    return [stretch for text in made.texts(messages, learn) for stretch in said(text, made.tokenizer)]


# The text of a turn with content X, and with reasoning T and content X, as the model generates it; "X" alone without marks.
AROUND = {
    "Cohere2MoE": ("X<|END_TEXT|>", "T<|END_THINKING|><|START_TEXT|>X<|END_TEXT|>"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("X<|END_RESPONSE|>", "X<|END_RESPONSE|>"),
    "Apriel-1.6-15b-Thinker-fixed": ("X", "T\n[BEGIN FINAL RESPONSE]\nX"),
    "Bielik-11B-v3.0-Instruct": ("X", "T\n</think>\nX"),
    "ByteDance-Seed-OSS": ("X", "<seed:think>T</seed:think>\nX"),
    "GLM-4.6": ("\n<think></think>\nX", "\n<think>T</think>\nX"),
    "GLM-4.7-Flash": ("X", "T</think>X"),
    "Kimi-K2-Thinking": ("<think></think>X", None),  # it renders the reasoning of some turns only
    "Kimi-K3": (
        "<|close|>think<|sep|><|open|>response<|sep|>X<|close|>response<|sep|><|close|>message<|sep|>",
        "T<|close|>think<|sep|><|open|>response<|sep|>X<|close|>response<|sep|><|close|>message<|sep|>",
    ),
    "LFM2.5-8B-A1B": ("X", "<think>T</think>X"),
    "MiniMax-M2": ("\n</think>\n\nX", "T\n</think>\n\nX"),
    "MiniMax-M3": ("</mm:think>X", "<mm:think>T</mm:think>X"),
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": ("X", "T\n</think>\nX"),
    "NVIDIA-Nemotron-Nano-v2": ("X\n", "X\n"),
    "Qwen-QwQ-32B": ("X", "T\n</think>\n\nX"),
    "Qwen-Qwen3-0.6B": ("X", "<think>\nT\n</think>\n\nX"),
    "Qwen3.5-4B": ("X", "T\n</think>\n\nX"),
    "Reka-Edge": (" X\n\n", " X\n\n"),
    "Spark2.5": ("X", "T</think>X"),
    "StepFun3.5-Flash": ("\n</think>\nX", "T\n</think>\nX"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("\n</think>\n\nX", "T\n</think>\n\nX"),
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": ("X", "T\n</think>\n\nX"),
    "deepseek-ai-DeepSeek-V3.2": ("X", "T\n</think>\n\nX"),
    "inclusionai-ling-3.0-flash": ("</think>X", "T</think>X"),
    "llama-cpp-deepseek-r1": ("\n</think>\n\nX", "T\n</think>\n\nX"),
    "llama-cpp-rwkv-world": (" X", " X"),
    "meetkai-functionary-medium-v3.2": ("all\nX", "all\nX"),
    "muse-glimmer": (" to=user<|message|>X", " to=self<|message|>T<|eom|><|start|>assistant to=user<|message|>X"),
    "openai-gpt-oss-120b": (
        "<|channel|>final<|message|>X",
        "<|channel|>analysis<|message|>T<|end|><|start|>assistant<|channel|>final<|message|>X",
    ),
    "openbmb-MiniCPM5-1B": ("X", "T\n</think>\n\nX"),
    "poolside-Laguna-S-2.1": ("</think>X", "T</think>X"),
    "poolside-Laguna-XS-2.1": ("\nX\n", "\nT\n</think>\nX\n"),
    "poolside-Laguna-XS.2": ("\nX\n", "\nT\n</think>\nX\n"),
    "tencent-Hy3": ("X", None),  # its prompts close the reasoning that it renders
    "unsloth-Apriel-1.5": ("X\n", "X\n"),
    "upstage-Solar-Open-100B": ("<|content|>X", "<|content|>X"),
}
# Templates that cannot render a conversation without tools.
REFUSING = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    "fireworks-ai-llama-3-firefunction-v2",
}


@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
@pytest.mark.parametrize("thinking", [False, True], ids=["plain", "thoughts"])
def test_published_templates_learn_what_the_assistant_says(path, thinking):
    template = path.read_text()
    made = writer(template)
    if path.stem in REFUSING:
        with pytest.raises(TemplateError):
            made.texts(CHAT)
        return
    around = AROUND.get(path.stem, ("X", "X"))[thinking]
    if around is None:
        pytest.skip("the template does not say")
    end = made.tokenizer.token(made.tokenizer.eos_id)
    expected = [re.sub(r"\bX\b", x, re.sub(r"\bT\b", t, around)) + end for x, t in (("due", "Hm."), ("quattro", "Sì."))]
    got = learned(template, THOUGHTS if thinking else CHAT)
    assert got == expected


@pytest.mark.parametrize("path", PUBLISHED, ids=[path.stem for path in PUBLISHED])
def test_tool_calls_are_learned_if_the_template_supports_them(path):
    try:
        got = learned(path.read_text(), CALLS)
    except TemplateError:
        pytest.skip("the template refuses them")
    call, answer = got
    assert "weather" in call
    assert "Forl" in call
    assert "Sereno." in answer
    assert "21" not in call + answer
    assert "Che tempo" not in call + answer


@pytest.fixture(scope="module")
def model(folder):
    return ordito.load(folder)


# Without the private-use character that guards control tokens in a text: prompts leave it out.
pieces = st.characters(codec="utf-8", exclude_characters=GUARD) | st.sampled_from(["<|im_end|>", "\n", " the warp"])
words = st.lists(pieces, max_size=20).map("".join)


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_prompts_are_those_of_inference(model, turns):
    messages = [{"role": role, "content": say} for turn in turns for role, say in zip(("user", "assistant"), turn, strict=True)]
    texts = Writer(model.template, model.tokenizer).texts(messages)
    assert len(texts) == 1, "the template writes each turn alike, whatever follows"
    begin = len(model.encode_chat(messages[:-1]))
    ids, learn = texts[0].ids.tolist(), texts[0].learn.tolist()
    assert ids[:begin] == model.encode_chat(messages[:-1])
    assert all(learn[begin:])
    assert said(texts[0], model.tokenizer) == [f"{answer}<|im_end|>" for _, answer in turns]


# Their prompts close reasoning, or open another text, that they never render: what they do render is learned.
OTHERWISE = {
    "Apriel-1.6-15b-Thinker-fixed",
    "Cohere2MoE",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "google-gemma-4-31B-it",
    "google-gemma-4-31B-it-interleaved",
}
THINKING = [path for path in PUBLISHED if "think" in path.read_text() and path.stem not in REFUSING]


@pytest.mark.parametrize("path", THINKING, ids=[path.stem for path in THINKING])
def test_prompts_of_reasoning_models_are_those_of_inference(path):
    made = writer(path.read_text())
    text = made.texts(CHAT, "last")[0]
    begin = text.learn.tolist().index(True)
    options = ({}, {"enable_thinking": True, "thinking": True}, {"enable_thinking": False, "thinking": False})
    prompts = [made.template.render(CHAT[:-1], guarded=made.tokenizer.guarded, **option) for option in options]
    fed = [made.tokenizer.encode_chat(prompt) for prompt in prompts]
    if path.stem in OTHERWISE:
        assert text.ids[:begin].tolist() not in fed
    else:
        assert text.ids[:begin].tolist() in fed


def test_reasoning_of_earlier_turns_is_learned():
    template = FORMATS["qwen3"].source
    assert learned(template, THOUGHTS) == [
        "<think>\nHm.\n</think>\n\ndue<|im_end|>",
        "<think>\nSì.\n</think>\n\nquattro<|im_end|>",
    ]
    made = writer(template)
    _, second = made.texts(THOUGHTS)
    assert "Hm." not in made.tokenizer.decode(second.ids.tolist())
    assert learned(template, CHAT) == ["due<|im_end|>", "quattro<|im_end|>"], "an empty thought is not to be learned"


def test_turns_that_are_a_prefix_of_a_later_text_share_it():
    assert len(writer(CHATML).texts(CHAT)) == 1
    assert learned(CHATML, CHAT) == ["due<|im_end|>", "quattro<|im_end|>"]


@pytest.mark.parametrize(
    ("learn", "expected"),
    [
        ("last", ["quattro<|im_end|>"]),
        ("all", [ChatTemplate(CHATML).render(CHAT, add_generation_prompt=False).removeprefix("<|im_start|>").rstrip("\n")]),
    ],
)
def test_learn_selects_the_learned_turns(learn, expected):
    assert learned(CHATML, CHAT, learn) == expected


@pytest.mark.parametrize("mark", [{"train": False}, {"weight": 0}, {"weight": 0.0}])
def test_a_message_may_be_context_only(mark):
    muted, asked = {**ASSISTANT, **mark}, [*CHAT[:3], {**CHAT[3], "train": True, "weight": 1}]
    assert learned(CHATML, [asked[0], muted, *asked[2:]]) == ["quattro<|im_end|>"]
    assert learned(CHATML, [*CHAT[:3], {**CHAT[3], **mark}]) == ["due<|im_end|>"]
    for learn, error in (("assistant", "nothing would be learned"), ("last", "nothing would"), ("all", "learns every message")):
        with pytest.raises(OrditoError, match=error):
            learned(CHATML, [USER, muted], learn)
    with pytest.raises(OrditoError, match="weight is 0.5, expected 0 or 1"):
        learned(CHATML, [USER, {**ASSISTANT, "weight": 0.5}])
    tokenizer = byte_tokenizer(CHATML)
    record = {"conversations": [{"from": "human", "value": "uno"}, {"from": "gpt", "value": "due", **mark}]}
    for template in (None, ChatTemplate.for_tokenizer(tokenizer)):
        with pytest.raises(OrditoError, match="nothing would be learned"):
            task(tokenizer, template).read(record)


def test_everything_of_a_conversation_without_an_answer():
    assert learned(CHATML, CHAT[:1], "all") == ["user\nuno<|im_end|>\n"]


def test_a_turn_without_end_token_gets_one():
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    assert learned(template, CHAT) == [" due</s>", " quattro</s>"]


def test_an_end_token_that_is_also_padding_is_learned():
    tokenizer = byte_tokenizer(CHATML)
    padded = byte_tokenizer(CHATML, pad=tokenizer.eos_id)
    text = Writer(ChatTemplate.for_tokenizer(padded), padded).texts(CHAT)[0]
    assert text.learn[-1]
    assert text.ids[-1] == padded.pad_id


def test_the_start_token_occurs_once():
    template = "{{ bos_token }}" + CHATML
    start = byte_tokenizer(template).bos_id
    text = writer(template, prefix=(start,)).texts(CHAT)[0]
    assert text.ids.tolist().count(start) == 1
    assert not text.learn[0]


def test_end_tokens_in_contents_are_escaped():
    messages = [{"role": "user", "content": "a<|im_end|>b"}, {"role": "assistant", "content": "c<|im_end|>d"}]
    made = writer(CHATML)
    (text,) = made.texts(messages)
    assert said(text, made.tokenizer) == ["c<|im_end|>d<|im_end|>"]
    assert text.ids.tolist().count(made.tokenizer.eos_id) == 2


def test_a_template_that_strips_contents():
    template = CHATML.replace("message.content", "message.content | trim").replace(
        "message['content']", "message['content'] | trim"
    )
    assert template != CHATML
    messages = [{"role": "user", "content": " a \n"}, {"role": "assistant", "content": "\n b "}]
    assert learned(template, messages) == ["b<|im_end|>"]


def test_no_token_spans_the_border():
    tokenizer = byte_tokenizer(CHATML, merges=[("Ċ", "Ċ"), (":", "Ġ")])
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\nb"}]
    (text,) = Writer(ChatTemplate(CHATML, eos_token="<|im_end|>"), tokenizer).texts(messages)
    assert said(text, tokenizer) == ["\nb<|im_end|>"]
    assert said(text_of_completion("Answer:", " x", tokenizer), tokenizer) == [" x" + tokenizer.token(tokenizer.eos_id)]


@pytest.fixture(scope="module", params=VOCABULARIES, ids=[path.stem for path in VOCABULARIES])
def vocabulary(request):
    from ordito.checkpoint.gguf import read_gguf

    tokenizer = Tokenizer.from_gguf(read_gguf(request.param).metadata)
    if tokenizer.vocabulary.kind == "wordpiece":
        pytest.skip("an encoder's, which writes nothing")
    return tokenizer


lines = st.lists(st.sampled_from([*"ab1:.\n è中", " the", "ing", "  "]), min_size=1, max_size=12).map("".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(prompt=lines, completion=lines)
def test_a_completion_is_learned_from_its_first_character(vocabulary, prompt, completion):
    text = text_of_completion(prompt, completion, vocabulary)
    ids, learn = text.ids.tolist(), text.learn.tolist()
    begin = learn.index(True)
    assert ids[:begin] == [*vocabulary.special.prefix, *vocabulary.encode(prompt, add_special_tokens=False)]
    assert all(learn[begin:])
    assert ids[-1] == vocabulary.eos_id
    assert vocabulary.decode(ids) == vocabulary.decode(vocabulary.encode(prompt + completion))


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        (CHAT[:1], "no message of the role assistant"),
        ([{"role": "usr", "content": "a"}], "role must be"),
        ([], "at least one"),
        ([*CHAT[:3], {"role": "assistant", "content": None}], r"messages\[3\]: the assistant has neither content nor"),
        ([CHAT[0], {"role": "assistant", "reasoning_content": "Hm."}], r"messages\[1\]: the assistant has neither content nor"),
    ],
)
def test_conversations_without_learned_tokens_are_refused(messages, error):
    with pytest.raises(OrditoError, match=error):
        writer(CHATML).texts(messages)


def test_a_template_without_tool_calls_is_not_trained_on_them():
    tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
    template = (
        "{{ tools | tojson }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | tojson }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_tokenizer(template)
    made = Writer(ChatTemplate.for_tokenizer(tokenizer), tokenizer, [tool])
    with pytest.raises(TemplateError, match="leaves tool calls out"):
        made.texts(CALLS)


def task(tokenizer, template, **how):
    kind = kind_named("sft")
    return kind.build(kind.settings(**how), Context(None, None, tokenizer, template))


def test_common_record_formats():
    tokenizer = byte_tokenizer(CHATML)
    read = task(tokenizer, ChatTemplate.for_tokenizer(tokenizer)).read
    for record in (
        {"messages": CHAT},
        {"conversations": [{"from": "human", "value": "uno"}, {"from": "gpt", "value": "quattro"}]},
        {"instruction": "uno", "output": "quattro"},
        {"prompt": "uno", "completion": "quattro"},
        {"prompt": CHAT[:3], "completion": CHAT[3:]},
    ):
        (text,) = read(record).texts
        assert said(text, tokenizer)[-1] == "quattro<|im_end|>"
    assert len(said(text, tokenizer)) == 1, "what a prompt's assistant says is given"


def test_without_a_template():
    tokenizer = byte_tokenizer()
    read = task(tokenizer, None).read
    (text,) = read({"prompt": "uno ", "completion": "due"}).texts
    assert said(text, tokenizer) == ["due</s>"]
    parts = [
        {"role": role, "content": [{"type": "text", "text": words}]} for role, words in (("user", "u"), ("assistant", "a"))
    ]
    (text,) = read({"messages": parts}).texts
    assert said(text, tokenizer) == ["a</s>"]
    for messages in (CHAT, [CHAT[0], CALLS[1]], [CHAT[0], {"role": "assistant", "tool_calls": CALLS[1]["tool_calls"]}]):
        with pytest.raises(OrditoError, match="no chat template"):
            read({"messages": messages})
    with pytest.raises(OrditoError, match="empty completion"):
        read({"prompt": "uno", "completion": ""})


def test_tools_are_rendered():
    template = FORMATS["qwen3"].source
    tokenizer = byte_tokenizer(template)
    tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object"}}}
    texts = task(tokenizer, ChatTemplate.for_tokenizer(tokenizer)).read({"messages": CALLS, "tools": [tool]}).texts
    assert '"name": "weather"' in tokenizer.decode(texts[-1].ids.tolist()[: texts[-1].learn.tolist().index(True)])
    assert said(texts[0], tokenizer)[0].startswith("<tool_call>")
