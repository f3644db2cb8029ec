"""`Model`, what `ordito.load` returns, and `load` itself."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ordito.checkpoint import store
from ordito.checkpoint.checkpoint import Checkpoint, open_checkpoint
from ordito.checkpoint.pooling import prompts_from_folder
from ordito.checkpoint.rounded import already_rounded, rounded
from ordito.checkpoint.stored import shown
from ordito.embed.pool import embed
from ordito.engine.backends import load_runtime
from ordito.engine.engine import Engine
from ordito.engine.request import Request, checked_stops
from ordito.engine.sampling import Sampling
from ordito.engine.stream import Generation, Stream
from ordito.errors import ContextError, ModelNotFoundError, OrditoError, OrditoWarning, unknown
from ordito.families import family_of
from ordito.memory import free_memory
from ordito.runtime import Floats, Runtime, checked_ids
from ordito.spec import Spec
from ordito.text.answers import PLAIN, Style, answer_reader
from ordito.text.answers.style import HERMES
from ordito.text.chat import ChatTemplate, thinking_options
from ordito.text.messages import check_messages, check_tools
from ordito.text.tokenizer import Tokenizer
from ordito.text.tool_words import with_tool_words

if TYPE_CHECKING:
    from ordito.checkpoint.adapter import Adapter
    from ordito.engine.grammar import Grammar, Grammars, Matcher

MAX_TOKENS = 512
"""Tokens of an answer at most, where the caller sets no limit."""

Messages = Sequence[Mapping[str, Any]]
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
        tools: Sequence[Mapping[str, Any]] | None = None,
        tools_in_words: bool = False,
        must_call: str | None = None,
        thinking: bool | str | None = None,
        thinking_budget: int | None = None,
        template_options: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        grammar: Grammar | None = None,
        ignore_end: bool = False,
        stop_ids: Sequence[int] = (),
        min_tokens: int = 0,
        n: int = 1,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        user: str = "",
        speculate: bool = True,
        one_call: bool = False,
        context: int | None = None,
        **sampling: Any,
    ) -> Request:
        """A request from a text, token ids or a conversation.

        - `max_tokens`: the most tokens of the answer; None for as many as the context holds.
        - `stop`: texts before which the answer ends.
        - `tools`, `thinking`: as in `chat`. With `tools_in_words`, a model whose template has no tools gets them described in
          the system message. `must_call` names the tool that it has to call, "" for any of them.
        - `template_options`: further variables of the chat template.
        - `continue_final_message`: continue the last message, the model's own, instead of beginning a new one.
        - `grammar`: constrains the answer.
        - `ignore_end`: do not stop at end tokens; `stop_ids`: further end tokens; `min_tokens`: no end token before so many
          tokens.
        - `context`: a smaller limit than the model's context for prompt and answer together.

        The other settings are fields of `Request` and of `Sampling`. Raises as `stream` does.
        """
        if not self.spec.generates:
            raise OrditoError(f"this {self.spec.architecture} model cannot generate text; it makes embeddings: use embed")
        known = Sampling.__dataclass_fields__
        for name in sampling:
            if name not in known:
                raise OrditoError(unknown("setting", name, (*known, "max_tokens", "stop")))
        most = min(self.spec.context, context or self.spec.context)
        asked = self.prompted(
            prompt,
            tools=tools,
            tools_in_words=tools_in_words,
            thinking=thinking,
            template_options=template_options,
            continue_final_message=continue_final_message,
            context=most,
        )
        if must_call is not None:
            grammar = self._call_grammar(
                asked.style, [tool for tool in tools or () if must_call in ("", tool["function"]["name"])]
            )
        match = None if grammar is None else self._matchers(grammar, asked, tools or () if must_call is None else None)
        chosen = Sampling(**sampling)
        if chosen.logit_bias and (last := max(chosen.logit_bias)) >= (size := self.spec.vocab_size):
            raise OrditoError(f"logit_bias has a token {last}, expected ids of this model's vocabulary, 0 to {size - 1}")
        source = asked.ids if self.spec.encoder is not None else None
        stops = checked_stops(stop)
        budget = thinking_budget if asked.style.think or asked.style.channels else None
        return Request(
            prompt=asked.ids if source is None else [self.start_id],
            read=lambda: answer_reader(
                self.tokenizer,
                asked.style,
                thinking=asked.thinks,
                begun=asked.begun,
                tools=asked.tools,
                must_call=must_call is not None,
                stops=stops,
            ),
            sampling=chosen,
            max_tokens=most if max_tokens is None else max_tokens,
            end_ids=frozenset(stop_ids) | (frozenset() if ignore_end else self.end_ids),
            context=most,
            match=match,
            thinking_budget=budget,
            thought_end=() if budget is None else self._thought_end(asked.style, in_grammar=match is not None),
            min_tokens=min_tokens,
            n=n,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            source=source,
            user=user,
            speculate=speculate,
            one_call=one_call,
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
        """The prompt of a text, token ids or a conversation, of any length; settings are those of `prepare`.

        With a `context`, a text that is certainly too long raises `ContextError` before it is tokenized, which would take
        seconds for megabytes.
        """
        if isinstance(prompt, str) or _are_ids(prompt):
            if tools or thinking is not None:
                raise OrditoError("tools and thinking need a conversation, got a text: give messages")
            if isinstance(prompt, str):
                self._check_length(prompt, context)
            # The first space of a continuation is text; that of an answer to a source is a mark of the vocabulary.
            return Prompt(self._text_ids(prompt), begun=self.spec.encoder is None)  # type: ignore[arg-type]
        options = {**thinking_options(thinking), **(template_options or {}), "continue_final_message": continue_final_message}
        return self._chat_prompt(prompt, tools, tools_in_words, options, context)  # type: ignore[arg-type]

    def _check_length(self, text: str, context: int | None) -> None:
        if context is None or 4 * len(text) < context:  # a character has at most four bytes, a token at least one
            return
        if (least := self.tokenizer.least(text)) >= context:
            raise ContextError(
                f"the prompt has at least {least:,} tokens, but the model's context holds {context:,}: shorten the prompt",
                least,
                context,
            )

    def _text_ids(self, prompt: str | Sequence[int]) -> list[int]:
        return self.tokenizer.encode(prompt, parse_special=True) if isinstance(prompt, str) else self._checked(prompt)

    def _chat_prompt(
        self,
        messages: Messages,
        tools: Sequence[Mapping[str, Any]] | None,
        in_words: bool,
        options: Mapping[str, Any],
        context: int | None,
    ) -> Prompt:
        if self.spec.encoder is not None:
            raise OrditoError(f"this {self.spec.architecture} model answers a text, not a conversation: use generate")
        style, offered, conversation = self.template.style, check_tools(tools), check_messages(messages)
        if options["continue_final_message"] and conversation[-1].get("tool_calls"):
            raise OrditoError("the last message calls tools, which cannot be continued: send what the calls gave")
        told = in_words and not self.template.knows_tools
        if told and not style.channels:
            style = replace(style, tools=HERMES)  # as it is told to write calls
        rendered = self.render(
            with_tool_words(conversation, offered) if told else messages, tools=None if told else offered, **options
        )
        self._check_length(rendered, context)
        tail, think = rendered.rstrip(), style.think
        return Prompt(
            self.tokenizer.encode_chat(rendered),
            style,
            # Some templates open the thought themselves, so that the model only closes it, or close one, so that it has none.
            thinks=tail.endswith(think[0]) if think and tail.endswith(think) else None,
            begun=options["continue_final_message"],
            tools=None if offered is None else {one["name"]: one.get("parameters") for one in (t["function"] for t in offered)},
        )

    def _call_grammar(self, style: Style, tools: Sequence[Mapping[str, Any]]) -> Grammar:
        """The grammar of a call of one of these tools."""
        from ordito.engine.grammar import Grammar
        from ordito.text.answers.rules import call_rules

        return Grammar("calls", f"start: call\n{call_rules(style, self.template.source, tools, self._marker)}")

    def _matchers(self, grammar: Grammar, asked: Prompt, tools: Sequence[Mapping[str, Any]] | None) -> Callable[[], Matcher]:
        """What makes matchers of answers that the grammar describes, or that call some of `tools` instead (None: cannot)."""
        from ordito.text.answers.rules import answer_rules

        style = asked.style
        # Without a token of its own, the beginning of a call could as well be that of the answer.
        kind = style.tools
        marked = style.channels or (kind is not None and not kind.bare and self._marker(kind.begin[0])[0] == "<")
        offered = tools if tools and marked else ()
        if tools is None or asked.begun or not (offered or style.channels):
            return self.grammars.prepared(grammar)
        calling, plain = (answer_rules(style, self.template.source, some, self._marker) for some in (offered, ()))
        try:
            return self.grammars.prepared(replace(grammar, around=calling))
        except OrditoError:  # a tool's schema may be more than can be followed
            return self.grammars.prepared(replace(grammar, around=plain))

    def _marker(self, marker: str) -> str:
        """A marker in rules: the token, or text where it is none."""
        id, vocabulary = self.tokenizer.id_of(marker), self.tokenizer.vocabulary
        return f"<[{id}]>" if id in vocabulary.control | vocabulary.added else json.dumps(marker, ensure_ascii=False)

    def _thought_end(self, style: Style, in_grammar: bool) -> list[int]:
        end = "<|end|><|start|>assistant<|channel|>" + ("" if in_grammar else "final<|message|>")
        if style.think:
            end = f"\n{style.think[1]}\n\n"
        return self.tokenizer.encode(end, add_special_tokens=False, parse_special=True)

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

    def embed(self, texts: str | Sequence[str], *, prompt: str | None = None) -> Floats:
        """One vector for each text, (texts, D), float32, by the model's own pooling.

        `prompt` names a task (`query`, `document`, ...) for which the model has a prefix that is put before each text.
        """
        listed = [texts] if isinstance(texts, str) else list(texts) if isinstance(texts, Iterable) else [texts]
        if wrong := [text for text in listed if not isinstance(text, str)]:
            raise OrditoError(f"a text to embed is {wrong[0]!r:.80}, expected a string")
        before = self.task_words(prompt)
        return embed(self.runtime, self.tokenizer, [before + text for text in listed])

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


@dataclass(frozen=True)
class Prompt:
    """The token ids of a prompt, and what the parser of its answer has to know.

    `style` are the model's markers of thoughts and calls. `thinks`: the prompt ends inside a thought (True) or behind one
    (False), so that the answer opens none; `begun`: it ends inside the answer. `tools` are the schemas of the parameters of
    those that were offered, by name, None for none.
    """

    ids: list[int]
    style: Style = PLAIN
    thinks: bool | None = False
    begun: bool = False
    tools: Mapping[str, Any] | None = None


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


def load(
    name: str | Path,
    *,
    adapter: str | Path | None = None,
    merge: bool = True,
    prompt_format: str | None = None,
    backend: str | None = None,
    dtype: str | None = None,
    quantize: str | None = None,
    progress: Any = None,
) -> Model:
    """Load a model by name (`smollm2`), Hugging Face id (`org/name[:quant][@revision]`) or path; fetches it if need be.

    A LoRA `adapter` (a folder or Hugging Face id) is merged into the weights or, without `merge`, applied unmerged. Where
    `name` itself is an adapter, the base is the one that it was trained on. `prompt_format` names the format of its
    conversations (`camoscio`, `llama-2`, ...) where neither the files nor the vocabulary show it. `backend` is the fastest one
    installed unless named, `dtype` that of its arithmetic (native: int12, int8, float32; torch: float32, bfloat16, float16).
    `quantize` rounds the weights while they are loaded (q8_0, q4_k_m, ...): a model in bf16 then needs a part of the memory.

    Raises `ModelNotFoundError`, `DownloadError`, `CheckpointError`, `ConfigError` or `TokenizerError`, each with one sentence
    that says what to do.
    """
    # Imported only where there is an adapter, because most models have none and start sooner without.
    path = store.locate(str(name), progress=progress).path
    chosen = None
    if adapter is not None or store.is_adapter(_names_in(path)):
        from ordito.checkpoint.adapter import open_adapter

        chosen = open_adapter(path if adapter is None else store.locate(str(adapter), progress=progress).path)
        path = _base(chosen, progress) if adapter is None else path
    checkpoint = open_checkpoint(path)
    if chosen is not None:
        from ordito.checkpoint.adapted import adapted, grown

        checkpoint = grown(checkpoint, chosen)
        checkpoint = adapted(checkpoint, chosen) if merge else checkpoint
    if quantize is not None:
        checkpoint = _rounded(checkpoint, quantize)
    if chosen is None:
        return Model(checkpoint, load_runtime(checkpoint, backend, dtype), prompt_format)
    model = Model(checkpoint, load_runtime(checkpoint, backend, dtype, None if merge else chosen), prompt_format)
    if store.has_vocabulary(_names_in(chosen.path)):
        # An adapter that brings a tokenizer was trained with its chat template.
        model.tokenizer = load_tokenizer(replace(checkpoint, path=chosen.path, format="huggingface"))
    return model


def _rounded(checkpoint: Checkpoint, quantization: str) -> Checkpoint:
    fewer = rounded(checkpoint, quantization)
    if (was := already_rounded(checkpoint)) is not None:
        warnings.warn(
            f"{checkpoint.path}: is {was.upper()} already, and rounding it again to {quantization.upper()} loses more than "
            "rounding the original would",
            OrditoWarning,
            stacklevel=3,
        )
    return fewer


def _names_in(path: Path) -> list[str]:
    return [file.name for file in path.iterdir()] if path.is_dir() else []


def _base(adapter: Adapter, progress: Any) -> Path:
    """The path of an adapter's base model. Raises `ModelNotFoundError` if it cannot be found or fetched."""
    give = "give the base: ordito.load(BASE, adapter=...), or ordito run BASE --adapter ..."
    if adapter.base is None:
        raise ModelNotFoundError(f"{adapter.path} is an adapter that does not say of which model; {give}")
    try:
        return store.locate(adapter.base, progress=progress).path
    except OrditoError as error:
        raise ModelNotFoundError(
            f"{adapter.path} is an adapter of {shown(adapter.base)}, which cannot be had ({error}); {give}"
        ) from None


def end_ids(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> frozenset[int]:
    """Token ids that end an answer of a model; without a tokenizer, those that its configuration names."""
    ids = checkpoint.generation.get("eos_token_id", checkpoint.metadata.get("eos_token_id"))
    named = ids if isinstance(ids, list) else [ids]
    return (tokenizer.end_ids if tokenizer else frozenset()) | {
        id for id in named if isinstance(id, int) and 0 <= id < checkpoint.spec.vocab_size
    }


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """A checkpoint's tokenizer. Warns (`OrditoWarning`) if it has more tokens than the model has embeddings."""
    if checkpoint.format == "gguf":
        tokenizer = Tokenizer.from_gguf(checkpoint.metadata)
    else:
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    if tokenizer.vocab_size > checkpoint.spec.vocab_size:
        warnings.warn(
            f"{checkpoint.path}: the tokenizer knows {tokenizer.vocab_size} tokens, but the model embeds only "
            f"{checkpoint.spec.vocab_size}",
            OrditoWarning,
            stacklevel=2,
        )
    return tokenizer
