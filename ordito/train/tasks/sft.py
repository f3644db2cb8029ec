"""Supervised fine-tuning (SFT): conversations in the model's chat template, with a loss on what the assistant says."""

from __future__ import annotations

from pydantic import Field

from ordito.errors import OrditoError
from ordito.text.messages import joined
from ordito.train.chatting import ALL_MUTED, Learn, Writer, is_muted, text_of_completion
from ordito.train.data.formats import conversation_of
from ordito.train.examples import Example
from ordito.train.objective import Objective
from ordito.train.settings import Settings
from ordito.train.task import Context, Kind, Record, Task
from ordito.train.terms import next_token


class SftSettings(Settings):
    """Settings of `sft`."""

    learn: Learn = Field(
        "assistant", description="Whose tokens are learned: the assistant's, those of its last turn, or everybody's."
    )


def build(settings: SftSettings, context: Context) -> Task:
    """Next-token prediction on the assistant's tokens of conversations; of `prompt` and `completion`, on the completion.

    Without a chat template, one question and its answer become plain text and its continuation.
    """
    template, tokenizer = context.template, context.tokenizer

    def read(record: Record) -> Example:
        messages, tools = conversation_of(record)
        if template is not None:
            completion = record.get("completion")
            first = len(messages) - len(completion) if isinstance(completion, list) else 0
            return Example(Writer(template, tokenizer, tools).texts(messages, settings.learn, first))
        if [message["role"] for message in messages] == ["user", "assistant"] and settings.learn != "all":
            if is_muted(messages[1]):
                raise OrditoError(ALL_MUTED)
            question, answer = (joined(message.get("content")) for message in messages)
            if isinstance(question, str) and isinstance(answer, str) and "tool_calls" not in messages[1]:
                return Example((text_of_completion(question, answer, tokenizer),))
        raise OrditoError("is a conversation, but the model has no chat template: choose a format with prompt_format")

    return Task(read, Objective.of(next_token()), packs=True, chats=True)


KINDS = (Kind("sft", "supervised fine-tuning on conversations, with loss on what the assistant says", SftSettings, build),)
