"""`ordito run`: chat with a model, or answer one prompt."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from ordito.checkpoint.store import DEFAULT_MODEL
from ordito.cli.console import load, piped, say, write, write_answer, write_json
from ordito.cli.parameters import arithmetic, backend_name, default_model, quantization
from ordito.cli.settings import DEFAULTS, Settings
from ordito.errors import OrditoError

if TYPE_CHECKING:
    from ordito.engine.stream import Generation, Stream
    from ordito.model import Model


@click.command()
@default_model()
@click.argument("prompt", required=False, metavar="[PROMPT]", help="A prompt to answer; without one, a chat opens.")
@click.option("--system", metavar="TEXT", help="The system message.")
@click.option("--max-tokens", type=int, help=f"Tokens of the answer, at most.  [{DEFAULTS['max_tokens']}]")
@click.option("--temperature", type=float, help=f"0 always takes the most probable token.  [{DEFAULTS['temperature']}]")
@click.option("--top-k", type=int, help=f"Sample from the k most probable tokens; 0: from all.  [{DEFAULTS['top_k']}]")
@click.option(
    "--top-p", type=float, help=f"Sample from the most probable tokens whose sum reaches this.  [{DEFAULTS['top_p']}]"
)
@click.option("--min-p", type=float, help=f"Drop tokens less probable than this share of the best.  [{DEFAULTS['min_p']}]")
@click.option("--repetition-penalty", type=float, help="Above 1: makes repetition less likely.  [1.0]")
@click.option("--stop", multiple=True, metavar="TEXT", help="End the answer before this text; may be repeated.")
@click.option("--seed", type=int, help="The same seed gives the same answer.")
@click.option(
    "--chat/--raw",
    default=None,
    help="Answer as a chat, or continue the text. [default: chat if the model has a template]",
)
@click.option("--think/--no-think", default=None, help="Reason before answering, if the chat template supports it.")
@click.option("--adapter", metavar="PATH", help="A LoRA adapter (folder or org/name) to run MODEL with.")
@click.option("--format", metavar="NAME", help="A chat format instead of the model's own template: alpaca, ...")
@backend_name
@arithmetic
@quantization
@click.option("--verbose", is_flag=True, help="Print load time and tokens per second to standard error.")
@click.option("--json", is_flag=True, help="Print one JSON object instead of text.")
def run(
    model: str,
    prompt: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    repetition_penalty: float | None,
    stop: tuple[str, ...],
    seed: int | None,
    chat: bool | None,
    think: bool | None,
    adapter: str | None,
    format: str | None,
    backend: str | None,
    dtype: str | None,
    quantize: str | None,
    verbose: bool,
    json: bool,
) -> None:
    """Chat with MODEL, or answer one prompt.

    Without a prompt a chat opens. With one, or with text on standard input, the answer is all that goes to standard output.
    Defaults in brackets apply where neither you nor the model's generation_config.json sets a value.

    \b
    ordito run
    ordito run smollm2 "Why is the sky blue?"
    cat notes.txt | ordito run smollm2 "Sum this up:" --temperature 0
    """
    _check_model_name(model, prompt)
    if chat is False:
        _check_raw({"--system": system, "--think" if think else "--no-think": think, "--format": format})
    if "" in stop:
        raise OrditoError("--stop is empty, expected the text before which the answer ends")
    given = piped()
    # Like $(...) in a shell: `echo hi` asks "hi", not "hi" and an empty line.
    text = "\n\n".join(part for part in (prompt, given and given.removesuffix("\n").removesuffix("\r")) if part)
    chatting = not text and not json and given is None
    if not text and not chatting:
        raise OrditoError("there is nothing to ask: give a prompt or text on standard input")
    chosen = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "repetition_penalty": repetition_penalty,
        "stop": stop or None,
        "seed": seed,
    }
    start = time.perf_counter()
    loaded, local = load(model, backend, adapter, format, dtype=dtype, quantize=quantize)
    settings = Settings(chosen, loaded.checkpoint.generation)
    if not loaded.spec.generates:
        raise OrditoError(f"{local.name} cannot generate text; it makes embeddings: ordito embed {shlex.quote(model)} TEXT")
    if not talks(loaded, chat):
        _check_continued({"--system": system, "--think": think})
    if chatting:
        from ordito.cli.chat import Chat

        opened = Chat(
            loaded, local.name, settings, system=system, chat=chat, verbose=verbose, licence=local.licence, think=think
        )
        opened.loop()
        return
    if verbose and not talks(loaded, chat):
        say("the text is continued, not answered" + ("" if chat is False else ": the model has no chat template"))
    stream = asked(loaded, text, settings, system=system, chat=chat, think=think)
    load_seconds = time.perf_counter() - start
    write_answer(stream.parts(), said=not json)
    result = stream.result
    if json:
        write_json(as_json(local.name, result, load_seconds))
    else:
        write("" if result.text.endswith("\n") else "\n")
    if verbose:
        report(result, load_seconds)


def _check_model_name(model: str, prompt: str | None) -> None:
    """Raise `OrditoError` for a prompt in the place of the model's name."""
    if not prompt and " " in model and "/" not in model and not os.path.exists(model):
        ask = f"ordito run {DEFAULT_MODEL} {shlex.quote(model)}"
        raise OrditoError(f"{model!r} is not a model name; to ask the default model: {ask}")


def _check_raw(conversational: Mapping[str, object]) -> None:
    """Raise `OrditoError` for options of conversations together with --raw."""
    for option, value in conversational.items():
        if value is not None:
            raise OrditoError(
                f"{option} does not go with --raw, which continues the text without a conversation: drop one of them"
            )


def _check_continued(conversational: Mapping[str, object]) -> None:
    """Raise `OrditoError` for options of conversations if the model has no chat template and only continues texts."""
    for option, value in conversational.items():
        if value is not None:
            raise OrditoError(
                f"{option} needs a conversation: this model has no chat template (--chat uses its family's format)"
            )


def asked(
    model: Model, text: str, settings: Settings, *, system: str | None, chat: bool | None, think: bool | None = None
) -> Stream:
    """The stream of the answer to one prompt; it begins when the stream is read."""
    prompt: Any = text
    if talks(model, chat):
        prompt = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": text}]
    return model.stream(prompt, thinking=think, **settings.all())


def talks(model: Model, chat: bool | None) -> bool:
    """Whether prompts are conversations: as the user says, else if the model was trained on them."""
    return model.talks if chat is None else chat


def rates(result: Generation) -> dict[str, float | None]:
    """Tokens per second of the prompt and of the answer; the first new token belongs to the prompt's time."""
    read = result.prompt_tokens - result.cached_tokens
    made = len(result.token_ids) - 1
    return {
        "prompt": read / result.prompt_seconds if result.prompt_seconds else None,
        "generation": made / result.seconds if result.seconds and made > 0 else None,
    }


def report(result: Generation, load_seconds: float | None = None, *, interrupted: bool = False) -> None:
    """Counts, seconds and rates on standard error."""
    per_second = {name: "" if rate is None else f"  {rate:.1f} tokens/s" for name, rate in rates(result).items()}
    if load_seconds is not None:
        say(f"load        {load_seconds:.2f} s")
        say(f"first token {load_seconds + result.prompt_seconds:.2f} s after the start")
    cached = f", {result.cached_tokens} of them cached" if result.cached_tokens else ""
    say(f"prompt      {result.prompt_tokens} tokens{cached} in {result.prompt_seconds:.2f} s{per_second['prompt']}")
    say(f"generation  {len(result.token_ids)} tokens in {result.seconds:.2f} s{per_second['generation']}")
    say(f"ended by    {'Ctrl-C' if interrupted else result.finish_reason}")


def as_json(model: str, result: Generation, load_seconds: float) -> dict[str, Any]:
    """An answer with its counts and seconds."""
    return {
        "model": model,
        "text": result.text,
        **({"thinking": result.thinking} if result.thinking else {}),
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "usage": {
            "prompt_tokens": result.prompt_tokens,
            "cached_tokens": result.cached_tokens,
            "completion_tokens": len(result.token_ids),
        },
        "seconds": {"load": load_seconds, "prompt": result.prompt_seconds, "generation": result.seconds},
        "tokens_per_second": rates(result),
    }
