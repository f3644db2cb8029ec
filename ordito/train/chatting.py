"""Conversations as texts to learn from: what the model is fed before each of its turns, and what it is to say then.

The border between the two is found by rendering: the prompt of a turn is what `ordito run` would feed the model, the messages
before it and the template's opening of an answer; the turn is what the template writes behind that. So no template needs marks
of its own (`{% generation %}`), and no token straddles the border, the place where the model takes over.

Many templates write a turn otherwise once others follow: they drop its thoughts, or have no token that ends it. Each turn is
learned as the model would write it in answer to its own prompt, so such a conversation becomes several texts; turns that stand
token for token in the text of a later one share it.
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

Messages = Sequence[Mapping[str, Any]]
_PROBE = "\ue100"
_LEADS = ("\n", "a", ".")


@dataclass(frozen=True)
class Writer:
    """Conversations with these tools (None for no tools), as a model's template writes them and its tokenizer cuts them."""

    template: ChatTemplate
    tokenizer: Tokenizer
    tools: Messages | None = None

    def texts(self, messages: Messages, learn: Learn = "assistant", first: int = 0) -> tuple[Text, ...]:
        """The texts of a conversation, of which the tokens that the assistant says, and that end its turns, are learned.

        The messages before number `first` are given, whoever says them. Raises `TemplateError` for a conversation that is none
        or that the template refuses, `OrditoError` if nothing of it would be learned.
        """
        checked = check_messages(messages)
        turns = [i for i, message in enumerate(checked) if message["role"] == "assistant" and i >= first]
        if learn == "all":
            closed = turns[-1:] == [len(checked) - 1]
            return (Text.of(self._turn(checked)[0] if closed else self.tokenizer.encode_chat(self._written(checked))),)
        if not turns:
            raise OrditoError("has no message of the role assistant: nothing would be learned")
        found: list[tuple[list[int], list[bool]]] = []
        for i in reversed(turns if learn == "assistant" else turns[-1:]):
            ids, begin = self._turn(checked[: i + 1])
            shared = next((text for text in found if text[0][: len(ids)] == ids), None)
            if shared is None:
                found.append((ids, [n >= begin for n in range(len(ids))]))
            else:
                shared[1][begin : len(ids)] = [True] * (len(ids) - begin)
        return tuple(Text.of(ids, marks) for ids, marks in reversed(found))

    def _turn(self, messages: Messages) -> tuple[list[int], int]:
        """The token ids of a conversation up to the end of its last message, the assistant's, and where that turn begins."""
        prompt, said = self._parts(messages)
        before = self.tokenizer.encode_chat(prompt)
        ids = _continued(before, prompt, said, self.tokenizer.encode_chat)
        ends = [n + 1 for n in range(len(before), len(ids)) if ids[n] in self.tokenizer.end_ids]
        if ends:  # the first behind which nothing more is said: some formats end a thought, or a text, with such a token too
            return ids[: next((end for end in ends if not self.tokenizer.decode(ids[end:]).strip()), ends[-1])], len(before)
        # What stands behind the last words here leads over to the next message, which the model is not to write.
        return _ended(_continued(before, prompt, said.rstrip(), self.tokenizer.encode_chat), self.tokenizer), len(before)

    def _parts(self, messages: Messages) -> tuple[str, str]:
        """The prompt of the last message, and what is said in answer to it, with whatever the template writes behind.

        A thought that is opened, or closed at once, for a model that is or is not to think belongs to the prompt.
        """
        text = self._written(messages)
        prompts = list(self._prompts(messages[:-1]))
        if fitting := [prompt for prompt in prompts if text.startswith(prompt)]:
            longest = max(fitting, key=len)
            return longest, text[len(longest) :]
        # The template opens its answers otherwise than it writes them: the border is where any answer would begin.
        probe = self._written([*messages[:-1], {"role": "assistant", "content": _PROBE}])
        place = probe.find(_PROBE)
        if place < 0 or not text.startswith(probe[:place]):
            raise TemplateError("the chat template writes this answer unlike its prompts, so that its beginning is not known")
        return self._thinking(messages[-1], prompts, text[place:]) or (text[:place], text[place:])

    def _thinking(self, message: Mapping[str, Any], prompts: Sequence[str], words: str) -> tuple[str, str] | None:
        """Prompt and answer for templates that open a thought, or close it, for the model, but write none, as DeepSeek-R1's."""
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
        """What the model may be fed before it answers: as it is used to, told to think, and told not to."""
        for thinking in (None, True, False) if self.template.style.think is not None else (None,):
            try:
                yield self._written(messages, add_generation_prompt=True, **thinking_options(thinking))
            except TemplateError:  # some refuse a conversation in which no one has asked yet
                continue

    def _written(self, messages: Messages, add_generation_prompt: bool = False, **options: Any) -> str:
        return self.template.render(
            messages,
            tools=self.tools,
            add_generation_prompt=add_generation_prompt,
            guarded=self.tokenizer.guarded,
            **options,
        )


def text_of_completion(prompt: str, completion: str, tokenizer: Tokenizer) -> Text:
    """A plain text and what follows it, which is learned, with the token that ends a text.

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
    """The ids of a prompt, `before`, and of what is said behind it, which the model says token by token once it was fed those.

    Where the two would merge at the border, what is said is read behind a character with which it does not: alone, a
    vocabulary may put a space before its first word.
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
    """What the assistant thought, which may also stand in front of what it says, between marks."""
    before, mark, _ = str(message.get("content") or "").partition(think[1])
    thought = message.get("reasoning_content") or (before.split(think[0])[-1] if mark else "")
    return str(thought).strip("\n")
