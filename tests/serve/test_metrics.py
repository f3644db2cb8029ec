"""What a server counts and times."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from serving import chat


def test_metrics_count(client):
    chat(client)
    text = client.get("/metrics").text
    assert "ordito_made_tokens_total{" in text
    assert "ordito_time_to_first_token_seconds_bucket" in text
    assert "ordito_requests_waiting" in text


def test_latencies_are_between_the_tokens_of_an_answer(client):
    def observed():
        text = client.get("/metrics").text
        names = ("ordito_time_to_first_token_seconds", "ordito_inter_token_seconds")
        return [sum(map(float, re.findall(rf"^{name}_count{{.*}} (.*)$", text, re.M))) for name in names]

    before = observed()
    assert chat(client, n=3, max_tokens=5, ignore_eos=True).status_code == 200
    assert [now - then for now, then in zip(observed(), before, strict=True)] == [1, 3 * 4]


def counted(client):
    """Counters, as Prometheus reads them."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {sample.name: sample.value for family in families if family.type == "counter" for sample in family.samples}


def test_the_documentation_lists_every_metric(client):
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
    listed = set(re.findall(r"`(ordito_\w+)`", page))
    families = text_string_to_metric_families(client.get("/metrics").text)
    made = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}
    assert listed == {name for name in made if not name.endswith("_created")}


def test_counters_never_decrease(client, folder):
    tokens = client.post("/v1/embeddings", json={"input": "the loom"}).json()["usage"]["prompt_tokens"]
    before = counted(client)
    chat(client)
    client.post("/api/generate", json={"model": "x", "keep_alive": 0}).raise_for_status()
    client.post("/v1/embeddings", json={"input": "the loom"}).raise_for_status()
    after = counted(client)
    assert after["ordito_finished_total"] == before["ordito_finished_total"] + 1
    assert after["ordito_made_tokens_total"] > before["ordito_made_tokens_total"]
    assert after["ordito_embedded_tokens_total"] == before["ordito_embedded_tokens_total"] + tokens
    assert all(after[name] >= value for name, value in before.items())
