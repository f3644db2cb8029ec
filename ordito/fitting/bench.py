"""How fast a model runs: tokens per second of prefill and decoding, with several numbers of cached tokens (depths)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ordito.accounting import Account
from ordito.fitting.backends import backend
from ordito.fitting.machine import Machine
from ordito.runtime import Floats, Runtime, Session


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measurement: `test` as llama-bench names it (pp512, tg128, tg128 @ d1024), tokens per second of each repetition.

    `bytes_per_token` are those of the stored weights and a 16-bit cache that a token needs, without weights that greedy
    decoding does not read (`Runtime.spared`); `limit` is the rate that the machine's bandwidth or arithmetic allows.
    """

    test: str
    rates: tuple[float, ...]
    bytes_per_token: float
    limit: float

    @property
    def mean(self) -> float:
        """Tokens a second."""
        return statistics.fmean(self.rates)

    @property
    def deviation(self) -> float:
        """The standard deviation of the repetitions."""
        return statistics.stdev(self.rates) if len(self.rates) > 1 else 0.0

    @property
    def reached(self) -> float:
        """The share of the limit that was reached."""
        return self.mean / self.limit

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "test": self.test,
            "tokens_per_second": self.mean,
            "deviation": self.deviation,
            "repetitions": list(self.rates),
            "bytes_per_token": round(self.bytes_per_token),
            "limit": self.limit,
            "percent_of_limit": 100 * self.reached,
        }


def bench(
    runtime: Runtime,
    found: Account,
    machine: Machine,
    *,
    prompts: Sequence[int] = (512,),
    generated: Sequence[int] = (128,),
    depths: Sequence[int] = (0,),
    repetitions: int = 5,
    backend_name: str | None = None,
    dtype: str | None = None,
) -> Iterator[Figure]:
    """Measure each length of prompt and of answer at each depth, after a warm-up run.

    Prompts are arbitrary tokens, and answers are decoded greedily. Of a model that does not generate, only prefill is measured,
    without depths. The limit is that of a backend, the native one unless named, and of the arithmetic that the model was loaded
    with.
    """
    shares = backend(backend_name).shares(machine, found, dtype)
    for depth in depths if found.spec.generates else (0,):
        session: Session = runtime.session() if found.spec.generates else _Encoder(runtime)
        before = _ids(depth, found.spec.vocab_size)
        if depth:
            session.feed(before)
        for count in prompts:
            yield Figure(
                test=_name("pp", count, depth),
                rates=_rates(session, before, count, repetitions, partial(session.feed, _ids(count, found.spec.vocab_size))),
                bytes_per_token=(found.weights_read + found.kv_cache.at(depth)) / count,
                limit=_limit(found, machine, shares, count, depth),
            )
        for count in generated if found.spec.generates else ():
            middle = depth + (count + 1) // 2  # the mean context: the answer itself is read from the cache, too
            yield Figure(
                test=_name("tg", count, depth),
                rates=_rates(
                    session, before, count, repetitions, partial(_answer, session, _ids(1, found.spec.vocab_size)[0], count)
                ),
                bytes_per_token=found.read(middle) - runtime.spared,
                limit=_limit(found, machine, shares, 1, middle - 1, runtime.spared),
            )


class _Encoder:
    """A model that does not generate, as a session without a cache."""

    length = 0

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def feed(self, token_ids: Sequence[int], greatest: int = 0) -> Floats:
        return self.runtime.hidden([token_ids])[0]

    def rewind(self, length: int) -> None:
        """Does nothing: there is no cache."""


def _limit(found: Account, machine: Machine, shares: Mapping[str, float], tokens: int, past: int, spared: int = 0) -> float:
    """Tokens per second at the machine's full speed, if each byte that is needed is read once (a roofline)."""
    work = machine.seconds(found.flops.forward(tokens, past, logits=1).total, shares)
    read = (found.weights_read - spared + found.kv_cache.at(past + tokens)) / machine.bandwidth
    return tokens / max(work, read)


def _answer(session: Session, token: int, count: int) -> None:
    """Decode `count` tokens greedily after `token`."""
    for _ in range(count):
        token = int(session.feed([token], greatest=1).argmax())


def _rates(session: Session, before: Sequence[int], n: int, repetitions: int, run: Callable[[], object]) -> tuple[float, ...]:
    """Tokens per second of each repetition of `run`, which reads or writes `n` tokens after the cached tokens `before`."""
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
        session.rewind(len(before))
        if session.length < len(before):  # a windowed layer no longer had the keys, so that all was dropped
            session.feed(before[session.length :])
    return tuple(n / one for one in seconds[1:])


def _ids(count: int, vocab_size: int) -> list[int]:
    """Arbitrary token ids, the same every time."""
    return [(7919 * i + 13) % vocab_size for i in range(count)]


def _name(kind: str, count: int, depth: int) -> str:
    return f"{kind}{count}" + (f" @ d{depth}" if depth else "")
