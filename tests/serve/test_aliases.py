"""A model is found, and listed, by every name that it has here."""

from __future__ import annotations

import httpx
import pytest
from serving import running


@pytest.fixture(scope="module")
def named(folder):
    aliases = {"gpt-4o": folder.name, "org/name": folder.name}
    with running([folder], aliases=aliases, strict_names=True) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.mark.parametrize("name", ["gpt-4o", "org/name"])
def test_openai(named, folder, name):
    model = named.get(f"/v1/models/{name}").json()
    assert (model["id"], model["root"]) == (name, folder.name)
    assert name in [one["id"] for one in named.get("/v1/models").json()["data"]]
    assert named.get(f"/v1/models/{folder.name}").json()["id"] == folder.name
    assert named.get("/v1/models/nothing").status_code == 404


@pytest.mark.parametrize("name", ["gpt-4o", "gpt-4o:latest"])
def test_ollama(named, name):
    assert named.post("/api/show", json={"model": name}).status_code == 200
    assert "gpt-4o" in [one["model"] for one in named.get("/api/tags").json()["models"]]
    assert named.post("/api/generate", json={"model": name, "prompt": "x", "stream": False}).json()["model"] == name
