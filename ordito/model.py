"""`Model`: a checkpoint, its tokenizer and a runtime, as `ordito.load` returns it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import count
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np

from ordito.checkpoint.checkpoint import Checkpoint
from ordito.checkpoint.pooling import prompts_from_folder
from ordito.embed.pool import embed
from ordito.embed.shorten import check_width, shortened
from ordito.engine.engine import Engine
from ordito.engine.request import Request, checked_stops
from ordito.engine.sampling import Sampling
from ordito.engine.stream import Generation, Stream
from ordito.errors import OrditoError, unknown
from ordito.families import family_of
from ordito.memory import free_memory
from ordito.runtime import Floats, Runtime, checked_ids
from ordito.spec import Spec
from ordito.text.answers import answer_reader
from ordito.text.chat import ChatTemplate, thinking_options
from ordito.text.from_checkpoint import end_ids, load_tokenizer
from ordito.text.messages import check_messages
from ordito.text.prompt import Messages, Prompt, chat_prompt, text_ids
from ordito.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from ordito.engine.grammar import Grammar, Grammars, Matcher

MAX_TOKENS = 512
"""Tokens of an answer at most, where the caller sets no limit."""

_PROMPT = ("tools_in_words", "thinking", "template_options", "continue_final_message")
_REQUEST = ("min_tokens", "n", "logprobs", "prompt_logprobs", "user", "speculate", "one_call")
_SAMPLING = tuple(Sampling.__dataclass_fields__)
"""Settings that `Model.prepare` passes on: to `Model.prompted`, to `Request` and to `Sampling`."""
_CONVERSATIONS = count(1)


class Model:
    """A checkpoint, its tokenizer and a runtime.

    `generate` continues a text, `chat` answers a conversation; `stream` does either, piece by piece. Settings are the fields
    of `Sampling` (greedy by default: temperature=0) and the arguments of `prepare`, such as `max_tokens` and `stop`.
    `prompt_format` names a chat format of `ordito.text.formats` to use instead of the checkpoint's own chat template.
    """

    def __init__(self, checkpoint: Checkpoint, runtime: Runtime, prompt_format: str | None = None) -> None:
        self.checkpoint, self.runtime, self.prompt_format = checkpoint, runtime, prompt_format

    @property
    def spec(self) -> Spec:
        """The architecture."""
        return self.runtime.spec

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer, read when it is first needed: without one, `logits` and `hidden` still work."""
        return load_tokenizer(self.checkpoint)

    def generate(self, prompt: str, **settings: Any) -> Generation:
        """Continue `prompt`, in which the text of special tokens is read as these tokens.

        Raises `ContextError` for a prompt that does not fit into the context, `OrditoError` for a setting out of range or a
        model without a language-model head.
        """
        return _finished(self.stream(prompt, **settings))

    def chat(self, messages: Messages, **settings: Any) -> Generation:
        """Answer a conversation, a list of {"role": ..., "content": ...}, rendered by the chat template.

        `tools` are functions that the model may call, in the JSON schema of OpenAI's API; `thinking` says whether it reasons
        before it answers: True, False, or an effort ("low", "medium", "high"). Raises as `generate` does, and `TemplateError`
        for a model without a chat template or messages that it refuses.
        """
        check_messages(messages)  # `stream` would continue a text
        return _finished(self.stream(messages, **settings))

    def stream(
        self,
        prompt: str | Messages,
        *,
        conversation: Conversation | None = None,
        **settings: Any,
    ) -> Stream:
        """The answer to a text or a conversation, as it is made: iterate over its pieces, then read `.result`.

        Prompts that begin alike share a prefix cache; with a `conversation`, only its own prompts do. Settings are those of
        `prepare`. Raises as `generate` and `chat` do.
        """
        user = settings.pop("user", "") if conversation is None else conversation.user
        return self.engine.submit(self.prepare(prompt, user=user, **settings))

    @cached_property
    def engine(self) -> Engine:
        """The engine that makes its answers; the KV cache may take a quarter of the free memory."""
        return Engine(self, cache_limit=free_memory() // 4)

    @cached_property
    def grammars(self) -> Grammars:
        """The compiled grammars for its vocabulary."""
        from ordito.engine.grammar import Grammars

        return Grammars(self.tokenizer, self.end_ids, self.spec.vocab_size)

    def prepare(
        self,
        prompt: str | Sequence[int] | Messages,
        *,
        max_tokens: int | None = MAX_TOKENS,
        stop: str | Sequence[str] = (),
        stop_ids: Sequence[int] = (),
        ignore_end: bool = False,
        context: int | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        must_call: str | None = None,
        grammar: Grammar | None = None,
        thinking_budget: int | None = None,
        **settings: Any,
    ) -> Request:
        """A request from a text, token ids or a conversation.

        - `max_tokens`: the most tokens of the answer; None for as many as the context holds.
        - `stop`: texts before which the answer ends; `stop_ids`: further end tokens; `ignore_end`: do not stop at those of the
          model.
        - `context`: a smaller limit than the model's context for prompt and answer together.
        - `must_call`: the name of the tool, one of `tools`, that the model has to call, "" for any of them.
        - `grammar`: constrains the answer.
        - `thinking_budget`: the most tokens of a thought, for models that think.

        The other settings are those of `prompted`, the fields of `Sampling`, and of `Request` `min_tokens`, `n`, `logprobs`,
        `prompt_logprobs`, `user`, `speculate` and `one_call`. Raises as `stream` does.
        """
        if not self.spec.generates:
            raise OrditoError(f"this {self.spec.architecture} model cannot generate text; it makes embeddings: use embed")
        for name in settings:
            if name not in (*_PROMPT, *_REQUEST, *_SAMPLING):
                raise OrditoError(unknown("setting", name, (*_PROMPT, *_REQUEST, *_SAMPLING, "max_tokens", "stop")))
        most = min(self.spec.context, context or self.spec.context)
        asked = self.prompted(prompt, tools=tools, context=most, **_chosen(settings, _PROMPT))
        sampling = Sampling(**_chosen(settings, _SAMPLING))
        if sampling.logit_bias and (last := max(sampling.logit_bias)) >= (size := self.spec.vocab_size):
            raise OrditoError(f"logit_bias has a token {last}, expected ids of this model's vocabulary, 0 to {size - 1}")
        match = self._constraint(asked, tools or (), must_call, grammar)
        budget = thinking_budget if asked.style.think or asked.style.channels else None
        source = asked.ids if self.spec.encoder is not None else None
        stops = checked_stops(stop)
        return Request(
            prompt=asked.ids if source is None else [self.start_id],
            source=source,
            read=lambda: answer_reader(
                self.tokenizer,
                asked.style,
                thinking=asked.thinks,
                begun=asked.begun,
                tools=asked.tools,
                must_call=must_call is not None,
                stops=stops,
            ),
            context=most,
            max_tokens=most if max_tokens is None else max_tokens,
            end_ids=frozenset(stop_ids) | (frozenset() if ignore_end else self.end_ids),
            sampling=sampling,
            match=match,
            thinking_budget=budget,
            thought_end=() if budget is None else self._marks(asked.style.thought_end(match is not None)),
            **_chosen(settings, _REQUEST),
        )

    def prompted(
        self,
        prompt: str | Sequence[int] | Messages,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tools_in_words: bool = False,
        thinking: bool | str | None = None,
        template_options: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        context: int | None = None,
    ) -> Prompt:
        """The prompt of a text, token ids or a conversation, of any length.

        - `tools`, `thinking`: as in `chat`. With `tools_in_words`, a model whose template has no tools gets them described in
          the system message.
        - `template_options`: further variables of the chat template.
        - `continue_final_message`: continue the last message, the model's own, instead of beginning a new one.
        - `context`: a text that is certainly longer raises `ContextError` before it is tokenized, which would take seconds for
          megabytes.
        """
        if isinstance(prompt, str) or _are_ids(prompt):
            if tools or thinking is not None:
                raise OrditoError("tools and thinking need a conversation, got a text: give messages")
            ids = text_ids(self.tokenizer, prompt, context) if isinstance(prompt, str) else self._checked(prompt)  # type: ignore[arg-type]
            # The first space of a continuation is text; that of an answer to a source is a mark of the vocabulary.
            return Prompt(ids, begun=self.spec.encoder is None)
        if self.spec.encoder is not None:
            raise OrditoError(f"this {self.spec.architecture} model answers a text, not a conversation: use generate")
        return chat_prompt(
            self.tokenizer,
            self.template,
            prompt,  # type: ignore[arg-type]
            tools=tools,
            tools_in_words=tools_in_words,
            continue_final_message=continue_final_message,
            options={**thinking_options(thinking), **(template_options or {})},
            context=context,
        )

    def _constraint(
        self, asked: Prompt, tools: Sequence[Mapping[str, Any]], must_call: str | None, grammar: Grammar | None
    ) -> Callable[[], Matcher] | None:
        if must_call is None and grammar is None:
            return None
        from ordito.engine.constraint import answer_of, call_of

        if grammar is None or must_call is not None:
            return call_of([tool for tool in tools if must_call in ("", tool["function"]["name"])], asked, self.grammars)
        return answer_of(grammar, tools, asked, self.grammars)

    def _marks(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False, parse_special=True)

    def encode_chat(self, messages: Messages, *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any) -> list[int]:
        """The token ids of a conversation, up to where the model is to answer; `options` are the template's own.

        The text of messages and tools never becomes a control token, even where it spells one: only the template ends a turn.
        """
        return self.tokenizer.encode_chat(self.render(messages, tools=tools, **options))

    def render(self, messages: Messages, *, tools: Sequence[Mapping[str, Any]] | None = None, **options: Any) -> str:
        """A conversation as its template writes it, with a guard character in text that would spell a control token."""
        return self.template.render(messages, tools=tools, guarded=self.tokenizer.guarded, **options)

    @cached_property
    def template(self) -> ChatTemplate:
        """The checkpoint's own chat template, or its family's where it has none. Raises `TemplateError` if there is neither."""
        return ChatTemplate.for_tokenizer(self.tokenizer, family_of(self.spec).prompts, self.prompt_format)

    @property
    def talks(self) -> bool:
        """Whether it was trained on conversations: its files have a chat template, or the caller named a prompt format.

        Control tokens alone do not show it: a base model may have those of its family's format untrained (Gemma).
        """
        return (self.prompt_format or self.tokenizer.chat_template) is not None

    @property
    def start_id(self) -> int:
        """The token with which a decoder begins to answer its source: `decoder_start_token_id`, or padding, as in T5."""
        named = (self.checkpoint.generation, self.checkpoint.metadata)
        ids = [values.get(key) for key in ("decoder_start_token_id", "t5.decoder_start_token_id") for values in named]
        return next((id for id in ids if isinstance(id, int) and 0 <= id < self.spec.vocab_size), self.tokenizer.pad_id or 0)

    @property
    def end_ids(self) -> frozenset[int]:
        """Token ids that end an answer: those of the vocabulary and those of generation_config.json."""
        return end_ids(self.checkpoint, self.tokenizer)

    def logits(self, token_ids: Sequence[int], encoder_ids: Sequence[int] | None = None) -> Floats:
        """Logits after each token, (T, V), float32.

        An encoder-decoder needs `encoder_ids`, the tokens that its encoder reads; other models take none. Raises `OrditoError`
        for ids that are not the vocabulary's.
        """
        if self.spec.encoder is not None and encoder_ids is None:
            raise OrditoError(f"this {self.spec.architecture} model answers a source text: give its ids as encoder_ids")
        return self.runtime.logits(self._checked(token_ids), self._checked_source(encoder_ids))

    def hidden(self, token_ids: Sequence[int], encoder_ids: Sequence[int] | None = None) -> Floats:
        """Hidden states of each token, (T, D), float32, after the last norm where there is one.

        Of an encoder-decoder they are the encoder's, or, with `encoder_ids`, those of the decoder.
        """
        return self.runtime.hidden([self._checked(token_ids)], self._checked_source(encoder_ids))[0]

    def embed(self, texts: str | Sequence[str], *, prompt: str | None = None, dimensions: int | None = None) -> Floats:
        """One vector for each text, (texts, D), float32, by the model's own pooling.

        `prompt` names a task (`query`, `document`, ...) for which the model has a prefix that is put before each text.
        `dimensions`: only the first numbers of each vector, of models that were trained for it.
        """
        listed = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else [texts]
        if wrong := [text for text in listed if not isinstance(text, str)]:
            raise OrditoError(f"a text to embed is {wrong[0]!r:.80}, expected a string")
        if dimensions is not None:
            check_width(self.checkpoint, dimensions)
        before = self.task_words(prompt)
        vectors = embed(self.runtime, self.tokenizer, [before + text for text in listed])
        return vectors if dimensions is None else shortened(vectors, dimensions, self.checkpoint)

    @property
    def prompts(self) -> dict[str, str]:
        """The prefix of texts to embed, by the name of the task."""
        return self._prompts[0]

    @cached_property
    def _prompts(self) -> tuple[dict[str, str], str | None]:
        folder = self.checkpoint.format == "huggingface" and self.checkpoint.path.is_dir()
        return prompts_from_folder(self.checkpoint.path) if folder else ({}, None)

    def task_words(self, name: str | None) -> str:
        """The prefix of a task, "" where the model has none. Raises `OrditoError` for a task that it does not know."""
        prompts, default = self._prompts
        name = default if name is None else name
        if name is not None and name not in prompts:
            known = f"one of {', '.join(prompts)}" if prompts else "none: this model has no prompts"
            raise OrditoError(f"unknown prompt {name!r}, expected {known}")
        return prompts[name] if name is not None else ""

    def _checked_source(self, encoder_ids: Sequence[int] | None) -> list[int] | None:
        if encoder_ids is not None and self.spec.encoder is None:
            raise OrditoError(f"this {self.spec.architecture} model has no encoder, so it takes no encoder_ids")
        return None if encoder_ids is None else self._checked(encoder_ids)

    def _checked(self, token_ids: Sequence[int]) -> list[int]:
        return checked_ids(token_ids, self.spec.vocab_size)


class Conversation:
    """A conversation of several turns: each prefills only what is new, and its prefix cache is its own."""

    def __init__(self, model: Model) -> None:
        self.user = f"conversation {next(_CONVERSATIONS)}"


def _are_ids(prompt: object) -> bool:
    """Whether a prompt is token ids: a list or an array of numbers."""
    return isinstance(prompt, Sequence | np.ndarray) and len(prompt) > 0 and isinstance(prompt[0], Integral)


def _finished(stream: Stream) -> Generation:
    for _ in stream:
        pass
    return stream.result


def _chosen(settings: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}
