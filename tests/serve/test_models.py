"""Models that are added, replaced and removed while a server runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import httpx
import numpy as np
import pytest
from serving import running

from ordito.checkpoint import store
from ordito.checkpoint.adapter import LowRank
from ordito.checkpoint.adapter_write import write_adapter
from ordito.errors import OrditoError
from ordito.serve.app import make_app
from ordito.serve.settings import ServerSettings


@pytest.fixture
def copies(folder, tmp_path):
    return [shutil.copytree(folder, tmp_path / name) for name in ("warp", "weft", "loom")]


@pytest.fixture
def machine(copies, monkeypatch):
    """What `store.installed` finds on this machine."""
    found = [replace(store.locate(str(path)), name=path.name, source="hub") for path in copies]
    monkeypatch.setattr(store, "installed", lambda: list(found))
    return found


def listed(client):
    openai = [one["id"] for one in client.get("/v1/models").raise_for_status().json()["data"]]
    ollama = [one["name"] for one in client.get("/api/tags").raise_for_status().json()["models"]]
    assert openai == ollama
    return openai


def asked(client, name):
    body = {"model": name, "messages": [{"role": "user", "content": "the loom"}], "max_tokens": 2}
    return client.post("/v1/chat/completions", json=body).status_code


def test_models_that_cannot_be_loaded_are_left_out(machine, copies, caplog):
    config = json.loads((copies[1] / "config.json").read_text())
    (copies[1] / "config.json").write_text(json.dumps({**config, "model_type": "whisper"}))
    with running([]) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert listed(client) == listed(client) == ["warp", "loom"]
        assert asked(client, "weft") == 404
        assert asked(client, "loom") == 200
    assert [record.getMessage().split(":")[:2] for record in caplog.records] == [["left out", " weft cannot be loaded"]]


def test_a_removed_model_disappears_once_it_is_unloaded(machine, copies):
    with running([]) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert asked(client, "warp") == 200
        for path in copies[:2]:
            shutil.rmtree(path)
        del machine[:2]
        assert listed(client) == ["warp", "loom"]
        assert [one["name"] for one in client.get("/api/ps").raise_for_status().json()["models"]] == ["warp"]
        assert asked(client, "warp") == 200
        client.post("/api/generate", json={"model": "warp", "keep_alive": 0}).raise_for_status()
        assert listed(client) == ["loom"]


def test_an_adapter_is_described_by_its_base(folder, tmp_path):
    low_rank = LowRank(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32), 0.1)
    write_adapter(tmp_path / "tuned", {"model.layers.0.self_attn.q_proj": low_rank}, base=str(folder))
    with running([tmp_path / "tuned"]) as url, httpx.Client(base_url=url, timeout=60) as client:
        for _ in "before", "after":
            shown = client.post("/api/show", json={"model": "tuned"})
            assert shown.status_code == 200
            assert "completion" in shown.json()["capabilities"]
            (tuned,) = client.get("/api/tags").json()["models"]
            assert tuned["details"]["family"] == "llama"
            assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 1024
            asked(client, "tuned")


def test_an_adapter_whose_base_is_not_here_is_refused_at_startup(tmp_path):
    """It was downloaded by the first request."""
    low_rank = LowRank(np.ones((2, 32), np.float32), np.ones((32, 2), np.float32), 0.1)
    write_adapter(tmp_path / "tuned", {"model.layers.0.self_attn.q_proj": low_rank}, base="loom/warp-1b")
    with pytest.raises(OrditoError, match="tuned cannot be loaded: .*loom/warp-1b"):
        make_app([str(tmp_path / "tuned")], ServerSettings())


def test_a_named_model_that_is_removed_leaves_the_others_listed(copies):
    with running(copies) as url, httpx.Client(base_url=url, timeout=60) as client:
        shutil.rmtree(copies[1])
        assert listed(client) == ["warp", "weft", "loom"]
        assert asked(client, "weft") == 500
        assert asked(client, "loom") == 200
