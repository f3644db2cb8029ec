"""`ordito run`: chat with a model, or answer one prompt."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping

import click

from ordito.checkpoint.store import DEFAULT_MODEL
from ordito.cli.answers import as_json, asked, report, talks
from ordito.cli.console import load, piped, say, write, write_answer, write_json
from ordito.cli.parameters import arithmetic, backend_name, default_model, quantization
from ordito.cli.settings import DEFAULTS, Settings
from ordito.errors import OrditoError


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
        why = "does not go with --raw, which continues the text without a conversation: drop one of them"
        options = {"--system": system, "--think" if think else "--no-think": think, "--format": format}
        _refuse_conversational(options, why)
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
        why = "needs a conversation: this model has no chat template (--chat uses its family's format)"
        _refuse_conversational({"--system": system, "--think": think}, why)
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


def _refuse_conversational(options: Mapping[str, object], why: str) -> None:
    """Raise `OrditoError` for an option of conversations that was given although the text is only continued."""
    for option, value in options.items():
        if value is not None:
            raise OrditoError(f"{option} {why}")
