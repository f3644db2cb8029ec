"""What a server has done and is doing, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ordito.engine.backends import cache_bytes

if TYPE_CHECKING:
    from ordito.serve.models import ModelPool

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_COUNTERS = {
    "prompt_tokens": "Tokens of prompts",
    "cached_tokens": "Tokens of prompts that were read before",
    "made_tokens": "Tokens of answers",
    "drafted_tokens": "Tokens that were guessed",
    "accepted_tokens": "Guesses that were right",
    "finished": "Answers that were made",
    "cancelled": "Answers that nobody waited for any more",
    "failed": "Answers that failed",
    "preempted": "Answers that had to begin again for want of memory",
    "steps": "Batches that were read",
}


class Metrics(Collector):
    """Counts of all models, loaded or not, since nothing that counts may fall back, and the seconds that tokens took."""

    def __init__(self, pool: ModelPool) -> None:
        self.pool, self.registry = pool, CollectorRegistry()
        self.registry.register(self)
        labels = ("model",)
        first, between = ("ordito_time_to_first_token_seconds", "ordito_inter_token_seconds")
        self.first = Histogram(first, "From a request to its first token", labels, registry=self.registry, buckets=_SECONDS)
        embedded = ("ordito_embedded_tokens", "Tokens of texts that vectors were made of")
        self.embedded = Counter(*embedded, labels, registry=self.registry)
        self.between = Histogram(between, "From one token to the next", labels, registry=self.registry, buckets=_SECONDS)

    def token(self, model: str, seconds: float, *, first: bool) -> None:
        """A token came, so long after the request or the token before it."""
        (self.first if first else self.between).labels(model).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The state of the engines now."""
        served = self.pool.served
        engines = [(one.name, one.engine) for one in served if one.engine is not None]
        gauges = {
            name: GaugeMetricFamily(f"ordito_{name}", text, labels=["model"])
            for name, text in (
                ("requests_running", "Answers that are being made"),
                ("requests_waiting", "Answers that have not begun"),
                ("cached_sequences", "Sequences that are kept for prompts that begin alike"),
                ("requests_embedding", "Requests whose texts are made vectors of, or wait"),
            )
        }
        for name, engine in engines:
            gauges["requests_running"].add_metric([name], len(engine.running))
            gauges["requests_waiting"].add_metric([name], engine.waiting)
            gauges["cached_sequences"].add_metric([name], len(engine.prefixes.kept))
        for one in served:
            gauges["requests_embedding"].add_metric([one.name], one.embedding)
        yield from gauges.values()
        yield GaugeMetricFamily("ordito_cache_bytes", "Bytes of keys and values, of all models", value=cache_bytes())
        for key, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"ordito_{key}", text, labels=["model"])
            for one in served:
                counter.add_metric([one.name], getattr(one.counts, key))
            yield counter

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)
