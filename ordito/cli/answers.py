"""Asking a model from the command line, and what is told of its answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ordito.cli.console import say
from ordito.cli.settings import Settings

if TYPE_CHECKING:
    from ordito.engine.stream import Generation, Stream
    from ordito.model import Model


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
