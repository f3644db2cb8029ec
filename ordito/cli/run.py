"""`ordito run`: talk to a model, or ask it one thing."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import typer

from ordito.cli.console import load, read_input, say, write, write_json
from ordito.cli.settings import DEFAULTS, Settings
from ordito.errors import OrditoError, TemplateError

if TYPE_CHECKING:
    from ordito.engine.generate import Generation
    from ordito.model import Model


def run(
    model: str = typer.Argument("smollm2", help="A name, org/name[:quant][@revision], or a path."),
    prompt: str = typer.Argument(None, help="What to ask; without it, a chat opens."),
    system: str = typer.Option(None, help="What the model is told first."),
    max_tokens: int = typer.Option(None, help=f"Longest answer, in tokens.  [{DEFAULTS['max_tokens']}]"),
    temperature: float = typer.Option(None, help=f"0 always takes the most probable token.  [{DEFAULTS['temperature']}]"),
    top_k: int = typer.Option(None, help=f"Choose among the k most probable tokens; 0: all.  [{DEFAULTS['top_k']}]"),
    top_p: float = typer.Option(None, help=f"Choose among tokens that reach this probability.  [{DEFAULTS['top_p']}]"),
    min_p: float = typer.Option(None, help=f"Least probability, as a share of the best token's.  [{DEFAULTS['min_p']}]"),
    repetition_penalty: float = typer.Option(None, help="Above 1: repeat less.  [1.0]"),
    stop: list[str] = typer.Option(None, help="End the answer before this text; may be given again."),
    seed: int = typer.Option(None, help="The same seed gives the same answer."),
    raw: bool = typer.Option(False, "--raw", help="Continue the prompt as it stands, without a chat template."),
    backend: str = typer.Option(None, help="What computes (torch); the fastest installed, if not named."),
    verbose: bool = typer.Option(False, "--verbose", help="Print load time and rates to standard error."),
    json: bool = typer.Option(False, "--json", help="Print one JSON object instead of text."),
) -> None:
    """Talk to MODEL, or ask it one thing.

    Without a prompt a chat opens. With one, or with text on standard input, the answer is all that goes to standard output.
    Settings in brackets hold where neither you nor the model's own generation_config.json says otherwise.

    \b
    ordito run
    ordito run smollm2 "Why is the sky blue?"
    cat notes.txt | ordito run smollm2 "Sum this up:" --temperature 0
    """
    piped = None if sys.stdin is None or sys.stdin.isatty() else read_input()
    text = "\n\n".join(part for part in (prompt, piped) if part)
    chatting = not text and piped is None and not json
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
    loaded = load(model, backend)
    load_seconds = time.perf_counter() - start
    settings = Settings(chosen, loaded.checkpoint.generation)
    if chatting:
        from ordito.cli.chat import Chat

        Chat(loaded, model, settings, system=system, raw=raw, verbose=verbose).loop()
        return
    result = answer(loaded, text, settings, system=system, raw=raw, quiet=json)
    if json:
        write_json(as_json(model, result, load_seconds))
    else:
        write("" if result.text.endswith("\n") else "\n")
    if verbose:
        report(result, load_seconds)


def answer(model: Model, text: str, settings: Settings, *, system: str | None, raw: bool, quiet: bool) -> Generation:
    """One answer, streamed to standard output unless `quiet`."""
    prompt: Any = text
    if not raw and has_chat_format(model):
        prompt = [{"role": "system", "content": system}] * (system is not None) + [{"role": "user", "content": text}]
    elif system is not None:
        raise OrditoError("--system needs a chat format, which this model (or --raw) does without")
    stream = model.stream(prompt, **settings.all())
    for piece in stream:
        if not quiet:
            write(piece)
    return stream.result


def has_chat_format(model: Model) -> bool:
    """Whether the model was trained on conversations. A template that is broken is an error, not an absence."""
    if model.tokenizer.chat_template is not None:
        return True
    try:
        return bool(model.template)
    except TemplateError:
        return False


def rates(result: Generation) -> dict[str, float | None]:
    """Tokens per second of the prompt and of the answer; the first new token belongs to the prompt's time."""
    read = result.prompt_tokens - result.cached_tokens
    made = len(result.token_ids) - 1
    return {
        "prompt": read / result.prompt_seconds if result.prompt_seconds else None,
        "generation": made / result.seconds if result.seconds and made > 0 else None,
    }


def report(result: Generation, load_seconds: float | None = None) -> None:
    """Counts, seconds and rates on standard error."""
    per_second = {name: "" if rate is None else f"  {rate:.1f} tokens/s" for name, rate in rates(result).items()}
    if load_seconds is not None:
        say(f"load        {load_seconds:.2f} s")
    cached = f", {result.cached_tokens} of them cached" if result.cached_tokens else ""
    say(f"prompt      {result.prompt_tokens} tokens{cached} in {result.prompt_seconds:.2f} s{per_second['prompt']}")
    say(f"generation  {len(result.token_ids)} tokens in {result.seconds:.2f} s{per_second['generation']}")
    say(f"ended by    {result.finish_reason}")


def as_json(model: str, result: Generation, load_seconds: float) -> dict[str, Any]:
    """An answer with its counts and seconds."""
    return {
        "model": model,
        "text": result.text,
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
