"""Metrics of a server, for Prometheus."""

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
    "cached_tokens": "Tokens of prompts found in the prefix cache",
    "made_tokens": "Generated tokens",
    "drafted_tokens": "Draft tokens of speculative decoding",
    "accepted_tokens": "Draft tokens that were accepted",
    "finished": "Finished answers",
    "cancelled": "Cancelled answers",
    "failed": "Failed answers",
    "preempted": "Answers preempted for lack of memory",
    "steps": "Batches computed",
}


class Metrics(Collector):
    """Counters of all models, loaded or not, because a counter must never decrease, and the latencies of tokens in seconds."""

    def __init__(self, pool: ModelPool) -> None:
        self.pool, self.registry = pool, CollectorRegistry()
        self.registry.register(self)
        labels = ("model",)
        first, between = ("ordito_time_to_first_token_seconds", "ordito_inter_token_seconds")
        self.first = Histogram(first, "From a request to its first token", labels, registry=self.registry, buckets=_SECONDS)
        embedded = ("ordito_embedded_tokens", "Tokens of embedded texts")
        self.embedded = Counter(*embedded, labels, registry=self.registry)
        self.between = Histogram(between, "From one token to the next", labels, registry=self.registry, buckets=_SECONDS)

    def token(self, model: str, seconds: float, *, first: bool) -> None:
        """Record a token that came `seconds` after the request (the `first`) or after the token before it."""
        (self.first if first else self.between).labels(model).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        served = self.pool.served
        engines = [(one.name, one.engine) for one in served if one.engine is not None]
        gauges = {
            name: GaugeMetricFamily(f"ordito_{name}", text, labels=["model"])
            for name, text in (
                ("requests_running", "Running answers"),
                ("requests_waiting", "Answers in the queue"),
                ("cached_sequences", "Sequences in the prefix cache"),
                ("requests_embedding", "Embedding requests, running or in the queue"),
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
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
