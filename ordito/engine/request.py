"""Requests to the engine, and the deltas in which it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ordito.engine.sampling import Sampling
from ordito.errors import ContextError, OrditoError
from ordito.text.answers import AnswerReader, Part

if TYPE_CHECKING:
    from ordito.engine.grammar import Matcher

FinishReason = Literal["stop", "length", "cancelled"]

MAX_CHOICES = 16
MAX_LOGPROBS = 128
MAX_STOPS = 64


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt in token ids, and how it is to be continued.

    - `read` makes the parser of each of the `n` answers, which separates thoughts and tool calls from text.
    - `thinking_budget` is the most tokens of a thought; then the tokens `thought_end` are forced.
    - `match` makes the matcher that constrains an answer to its grammar.
    - `logprobs` asks for the log probability of each token and of so many alternatives, `prompt_logprobs` for those of the
      prompt's tokens.
    - `source` are the tokens that an encoder-decoder's encoder reads.
    - Requests of one `user` share the prefix cache, and take turns with those of other users.
    - `speculate` allows speculative decoding, which does not change answers.
    - With `one_call` an answer ends before a second tool call.

    Raises `OrditoError` for a number out of range, `ContextError` for a prompt that does not fit into `context`.
    """

    prompt: Sequence[int]
    read: Callable[[], AnswerReader]
    context: int
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    end_ids: frozenset[int] = frozenset()
    min_tokens: int = 0
    n: int = 1
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    match: Callable[[], Matcher] | None = None
    thinking_budget: int | None = None
    thought_end: Sequence[int] = ()
    source: Sequence[int] | None = None
    user: str = ""
    speculate: bool = True
    one_call: bool = False

    def __post_init__(self) -> None:
        if not self.prompt:
            raise OrditoError("the prompt has no tokens, expected at least one")
        least = 1 if self.prompt_logprobs is None else 0
        _whole("max_tokens", self.max_tokens, least, 2**31)
        _whole("min_tokens", self.min_tokens, 0, 2**31)
        _whole("n", self.n, 1, MAX_CHOICES)
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 0, MAX_LOGPROBS)
        if self.thinking_budget is not None:
            _whole("thinking_budget", self.thinking_budget, 0, 2**31)
        if len(self.prompt) + (self.max_tokens > 0) > self.context:
            raise ContextError(
                f"the prompt has {len(self.prompt):,} tokens, but the model's context holds {self.context:,} "
                "with at least one for the answer: shorten the prompt",
                len(self.prompt),
                self.context,
            )

    @property
    def room(self) -> int:
        """How many tokens an answer may have."""
        return min(self.max_tokens, self.context - len(self.prompt))


def checked_stops(stop: str | Sequence[str]) -> list[str]:
    """Stop strings as a list. Raises `OrditoError` for anything but strings that are not empty, and for too many."""
    stops = [stop] if isinstance(stop, str) else stop
    if not isinstance(stops, list | tuple) or any(not isinstance(one, str) or not one for one in stops):
        raise OrditoError(f"stop is {stop!r:.100}, expected a list of strings that are not empty")
    if len(stops) > MAX_STOPS:
        raise OrditoError(f"stop has {len(stops)} strings, expected at most {MAX_STOPS}")
    return list(stops)


def _whole(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise OrditoError(f"{name} is {value!r:.100}, expected a whole number of at least {low} and at most {high}")


@dataclass(frozen=True)
class Token:
    """A token, its log probability (natural, of the unmodified logits), and the `top` most probable as (id, logprob)."""

    id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Delta:
    """New tokens of one answer, and the parts (text, thoughts, calls) that they complete; the last delta has a `finish`.

    The first delta of a request with `prompt_logprobs` has the `prompt`'s tokens.
    """

    index: int
    tokens: Sequence[Token] = ()
    parts: Sequence[Part] = ()
    finish: FinishReason | None = None
    stop: str | None = None
    prompt: Sequence[Token] = ()
