"""Conversations as texts with loss masks: for each assistant turn, the prompt that the model gets, and the answer to learn.

The border between them is found by rendering: the prompt of a turn is what `ordito run` would feed the model, that is, the
messages before it with `add_generation_prompt`; the answer is what the template renders after that. So templates need no
`{% generation %}` marks, and no token spans the border, where the model begins to generate.

Many templates render a turn differently once others follow: without its reasoning, or without an end token. Each turn is
learned as the model would generate it after its own prompt, so a conversation may become several texts; a turn whose tokens are
a prefix of the text of a later turn shares that text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ordito.errors import OrditoError, TemplateError
from ordito.text.chat import ChatTemplate, thinking_options
from ordito.text.messages import check_messages
from ordito.text.tokenizer import Tokenizer
from ordito.train.examples import Text

Learn = Literal["assistant", "last", "all"]
"""Whose tokens are learned: the assistant's, those of its last turn, or everybody's."""

ALL_MUTED = "has no message of the assistant without train: false or weight: 0: nothing would be learned"

Messages = Sequence[Mapping[str, Any]]
_PROBE = "\ue100"
_LEADS = ("\n", "a", ".")


@dataclass(frozen=True)
class Writer:
    """Renders conversations with a model's chat template, and `tools` if there are any, and encodes them with its tokenizer."""

    template: ChatTemplate
    tokenizer: Tokenizer
    tools: Messages | None = None

    def texts(self, messages: Messages, learn: Learn = "assistant", first: int = 0) -> tuple[Text, ...]:
        """The texts of a conversation; learned are the tokens of the assistant's turns, the end token of each included.

        Messages before index `first` are context only, and so are those with `train` false or `weight` 0. Raises
        `TemplateError` for an invalid conversation, or one that the template refuses, `OrditoError` if nothing of it would be
        learned.
        """
        checked = check_messages(messages)
        for i, message in enumerate(checked):
            if message["role"] == "assistant" and message.get("content") is None and not message.get("tool_calls"):
                raise OrditoError(f"messages[{i}]: the assistant has neither content nor tool_calls, expected one of them")
        turns = [i for i, message in enumerate(checked) if message["role"] == "assistant" and i >= first]
        muted = {i for i in turns if is_muted(checked[i])}
        if learn == "all":
            if muted:
                raise OrditoError("has a message with train: false or weight: 0, but learn=all learns every message")
            closed = turns[-1:] == [len(checked) - 1]
            return (Text.of(self._turn(checked)[0] if closed else self.tokenizer.encode_chat(self._rendered(checked))),)
        if not turns:
            raise OrditoError("has no message of the role assistant: nothing would be learned")
        learned = [i for i in (turns if learn == "assistant" else turns[-1:]) if i not in muted]
        if not learned:
            raise OrditoError(ALL_MUTED)
        found: list[tuple[list[int], list[bool]]] = []
        for i in reversed(learned):
            ids, begin = self._turn(checked[: i + 1])
            shared = next((text for text in found if text[0][: len(ids)] == ids), None)
            if shared is None:
                found.append((ids, [n >= begin for n in range(len(ids))]))
            else:
                shared[1][begin : len(ids)] = [True] * (len(ids) - begin)
        return tuple(Text.of(ids, marks) for ids, marks in reversed(found))

    def _turn(self, messages: Messages) -> tuple[list[int], int]:
        """Token ids of a conversation whose last message is the assistant's, and the index at which that answer begins."""
        prompt, said = self._parts(messages)
        if not all(call["function"]["name"] in said for call in messages[-1].get("tool_calls", ())):
            raise TemplateError("this model's chat template leaves tool calls out: it was not trained on them")
        before = self.tokenizer.encode_chat(prompt)
        ids = _continued(before, prompt, said, self.tokenizer.encode_chat)
        ends = [n + 1 for n in range(len(before), len(ids)) if ids[n] in self.tokenizer.end_ids]
        if ends:  # up to the first end token that only white space follows: some formats also end reasoning with such a token
            return ids[: next((end for end in ends if not self.tokenizer.decode(ids[end:]).strip()), ends[-1])], len(before)
        # White space after the last words belongs to the next message: the model is not to generate it.
        return _ended(_continued(before, prompt, said.rstrip(), self.tokenizer.encode_chat), self.tokenizer), len(before)

    def _parts(self, messages: Messages) -> tuple[str, str]:
        """The rendered conversation as the prompt of its last message, and the answer with whatever the template adds to it.

        Reasoning tags that the template opens, or opens and closes, in a generation prompt belong to the prompt.
        """
        text = self._rendered(messages)
        prompts = list(self._prompts(messages[:-1]))
        if fitting := [prompt for prompt in prompts if text.startswith(prompt)]:
            longest = max(fitting, key=len)
            return longest, text[len(longest) :]
        # The template renders answers differently from its generation prompts: take the place where any content begins.
        probe = self._rendered([*messages[:-1], {"role": "assistant", "content": _PROBE}])
        place = probe.find(_PROBE)
        if place < 0 or not text.startswith(probe[:place]):
            raise TemplateError("the chat template writes this answer unlike its prompts, so that its beginning is not known")
        return self._thinking(messages[-1], prompts, text[place:]) or (text[:place], text[place:])

    def _thinking(self, message: Mapping[str, Any], prompts: Sequence[str], words: str) -> tuple[str, str] | None:
        """Prompt and answer for templates that have reasoning tags in generation prompts but not in answers (DeepSeek-R1)."""
        think = self.template.style.think
        if think is None:
            return None
        thought = _thought(message, think)
        for prompt in prompts if thought else prompts[:1]:
            if prompt.rstrip().endswith(think[0]):
                return prompt, f"{self.tokenizer.guarded(thought)}\n{think[1]}\n\n{words}"
            if prompt.rstrip().endswith(think[1]) and not thought:
                return prompt, words
        return None

    def _prompts(self, messages: Messages) -> Iterator[str]:
        """The generation prompts that the model may get: by default, with thinking on, and with thinking off."""
        for thinking in (None, True, False) if self.template.style.think is not None else (None,):
            try:
                yield self._rendered(messages, add_generation_prompt=True, **thinking_options(thinking))
            except TemplateError:  # some templates refuse a conversation without a user message
                continue

    def _rendered(self, messages: Messages, add_generation_prompt: bool = False, **options: Any) -> str:
        return self.template.render(
            messages,
            tools=self.tools,
            add_generation_prompt=add_generation_prompt,
            guarded=self.tokenizer.guarded,
            **options,
        )


def is_muted(message: Mapping[str, Any]) -> bool:
    """Whether a message is context only: `train` is false, as in Axolotl, or `weight` 0, as at OpenAI and Mistral.

    Raises `OrditoError` for other values than true and false, 0 and 1.
    """
    for key, expected in (("train", "true or false"), ("weight", "0 or 1")):
        if (value := message.get(key)) is not None and (not isinstance(value, (int, float)) or value not in (0, 1)):
            raise OrditoError(f"has a message whose {key} is {value!r:.80}, expected {expected}")
    return message.get("train") == 0 or message.get("weight") == 0


def text_of_completion(prompt: str, completion: str, tokenizer: Tokenizer) -> Text:
    """A plain-text prompt and its completion, which is learned, with the end token.

    Raises `OrditoError` if there is nothing to learn.
    """
    if not completion:
        raise OrditoError("has an empty completion: nothing would be learned")

    def encode(text: str) -> list[int]:
        return [*tokenizer.special.prefix, *tokenizer.encode(text, add_special_tokens=False)]

    before = encode(prompt)
    ids = _ended(_continued(before, prompt, completion, encode), tokenizer)
    return Text.of(ids, [n >= len(before) for n in range(len(ids))])


def _continued(before: list[int], prompt: str, said: str, encode: Callable[[str], list[int]]) -> list[int]:
    """The ids of a prompt, `before`, followed by those of the answer `said`, without a token that spans the border.

    If prompt and answer merge at the border, the answer is encoded after a character with which it does not merge: encoded
    alone, some tokenizers would add a space before its first word.
    """
    whole = encode(prompt + said)
    if whole[: len(before)] == before:
        return whole
    for lead in _LEADS:
        alone, both = encode(lead), encode(lead + said)
        if both[: len(alone)] == alone:
            return [*before, *both[len(alone) :]]
    return [*before, *encode(said)[len(encode("")) :]]


def _ended(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return ids if tokenizer.eos_id is None or ids[-1:] == [tokenizer.eos_id] else [*ids, tokenizer.eos_id]


def _thought(message: Mapping[str, Any], think: tuple[str, str]) -> str:
    """The assistant's reasoning: `reasoning_content`, or what precedes the closing tag in `content`."""
    before, mark, _ = str(message.get("content") or "").partition(think[1])
    thought = message.get("reasoning_content") or (before.split(think[0])[-1] if mark else "")
    return str(thought).strip("\n")
