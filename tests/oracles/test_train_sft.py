"""Learned tokens of conversations against the assistant masks of TRL's training templates, as transformers gives them.

Theirs also mark what the prompt of a turn says already (`<|start|>assistant`, an empty thought), and the line break behind the
token that ends it; ours begin where the model takes over and end where it stops.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
from byte_tokenizer import byte_tokenizer

from ordito.errors import TemplateError
from ordito.text.chat import ChatTemplate
from ordito.train.chatting import Writer

FOLDER = Path(__file__).parents[3] / "shared" / "assets" / "chat-templates" / "training"
TEMPLATES = [path for path in sorted(FOLDER.glob("*_training.jinja")) if not path.stem.startswith("llava")]  # wants pictures
CHATS = {
    "plain": [
        {"role": "user", "content": "uno"},
        {"role": "assistant", "content": "due"},
        {"role": "user", "content": "tre"},
        {"role": "assistant", "content": "quattro"},
    ],
    "thought": [
        {"role": "system", "content": "Sii breve."},
        {"role": "user", "content": "uno"},
        {"role": "assistant", "content": "due", "reasoning_content": "Hm."},
    ],
    "calls": [
        {"role": "user", "content": "Che tempo fa?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Forlì"}}}],
        },
        {"role": "tool", "name": "weather", "content": "21"},
        {"role": "assistant", "content": "Sereno."},
    ],
}
# What theirs mark beyond ours: what the prompt says, and what stands behind the end of a turn.
BEYOND = {"<|start|>assistant", "<think>\n", "<think></think>", "<think>\n\n</think>\n\n", "\n", "<|end|>"}
# Theirs render no prompt, or no end, that the model would be given, and ours write those. DiffusionGemma's leave the end of a
# turn that calls unmarked.
OWN = ("deepseek_r1_distill", "deepseekv3", "glm4moe", "idefics3", "smolvlm")


def marked(path, messages):
    """Ids and assistant mask as transformers makes them, and our texts, of the same tokenizer."""
    import transformers

    template = path.read_text()
    tokenizer = byte_tokenizer(template)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.engine,
        bos_token="<s>",
        eos_token=tokenizer.token(tokenizer.eos_id),
        chat_template=template,
    )
    try:
        theirs = fast.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    except Exception as error:
        pytest.skip(f"the template refuses: {error}")
    writer = Writer(ChatTemplate.for_tokenizer(tokenizer), tokenizer)
    try:
        texts = writer.texts(messages)
    except TemplateError as error:
        pytest.skip(str(error))
    return theirs["input_ids"], [bool(mark) for mark in theirs["assistant_masks"]], texts, tokenizer


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])
def test_learned_tokens_are_those_of_trls_assistant_masks(path, chat):
    if path.stem.removesuffix("_training") in OWN or (path.stem.startswith("diffusion_gemma") and chat == "calls"):
        pytest.skip("the template's marks do not say what the model would be fed")
    ids, mask, texts, tokenizer = marked(path, CHATS[chat])
    text = texts[-1]
    n = len(text)
    assert ids[:n] == text.ids.tolist(), "the same prompt and answer, token for token"
    ours = [*text.learn.tolist(), *([False] * (len(ids) - n))]
    if len(texts) > 1:  # theirs mark earlier turns without their thoughts, or without the token that ends an answer
        first = ours.index(True)
        mask = [mark and i >= first for i, mark in enumerate(mask)]
    assert all(mark for mark, learn in zip(mask, ours, strict=True) if learn), "nothing is learned that is not marked"
    for (more, _), places in groupby(range(len(ids)), lambda i: (mask[i] and not ours[i], ours[max(i - 1, 0)])):
        if more:
            extra = [ids[i] for i in places]
            assert tokenizer.decode(extra, skip_special_tokens=False) in BEYOND
