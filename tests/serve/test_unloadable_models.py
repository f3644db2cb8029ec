"""Models that cannot be served: at the start, and when a request asks for them."""

from __future__ import annotations

import asyncio
import json
import shutil

import httpx
import pytest
import transformers
from serving import error, running
from tiny_model import tiny_folder

from ordito.checkpoint import store
from ordito.errors import OrditoError, OrditoWarning
from ordito.serve.app import make_app
from ordito.serve.models import ModelPool
from ordito.serve.settings import ServerSettings

HI = [{"role": "user", "content": "the loom"}]


def test_why_a_model_cannot_be_loaded_is_told_by_the_log_alone(folder, monkeypatch, caplog):
    def failing(*arguments, **settings):
        raise OrditoError(f"{folder}: its weights are no numbers")

    monkeypatch.setattr("ordito.serve.models.load", failing)
    with running([folder]) as url:
        told = error(httpx.post(f"{url}/v1/chat/completions", json={"messages": HI}), 500)
        assert "cannot be loaded" in told["message"]
        assert str(folder) not in told["message"]
    assert f"{folder}: its weights are no numbers" in caplog.text


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "generation_config.json"])
def test_errors_tell_no_paths(folder, tmp_path, name, caplog):
    copied = shutil.copytree(folder, tmp_path / "copied")
    with running([copied]) as url:
        (copied / name).write_bytes(b"{")
        asked = [("/v1/chat/completions", {"messages": HI}), ("/api/show", {"model": "copied"})]
        for path, body in asked[: 1 if name.startswith("gen") else 2]:
            refused = httpx.post(url + path, json=body)
            assert refused.status_code == 500, path
            assert str(tmp_path) not in refused.text
            assert str(tmp_path) in caplog.text
            caplog.clear()


def test_ambiguous_names_and_aliases_of_nothing_are_refused(folder, tmp_path):
    with pytest.raises(OrditoError, match="has no 'nothing'"):
        make_app([str(folder)], ServerSettings(aliases={"gpt-4o": "nothing"}))
    other = tmp_path / folder.name
    other.symlink_to(folder)
    with pytest.raises(OrditoError, match="2 models are called"):
        make_app([str(folder), str(other)], ServerSettings())


def test_models_that_cannot_be_loaded_are_refused_at_startup(folder, tmp_path):
    with pytest.raises(OrditoError, match="--memory"):
        make_app([str(folder)], ServerSettings(memory=1000))
    broken, embedder = tmp_path / "broken", tmp_path / "embedder"
    shutil.copytree(folder, broken)
    config = json.loads((folder / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(embedder)
    with pytest.raises(OrditoError, match="broken cannot be loaded: .*5 heads"):
        make_app([str(broken)], ServerSettings())
    with pytest.raises(OrditoError, match="embeddings only"):
        make_app([str(folder)], ServerSettings(draft=str(embedder)))


def test_a_draft_of_another_vocabulary_is_warned_of_once(folder, tmp_path):
    draft = tiny_folder(tmp_path, 64, text="in principio era il filo")
    with pytest.warns(OrditoWarning, match="has another vocabulary"):
        pool = ModelPool([str(folder)], ServerSettings(draft=str(draft)))

    async def loaded():
        async with pool.use(None) as served:
            assert served.ready[1].draft is None
        await pool.close()

    asyncio.run(loaded())
    ModelPool([str(folder)], ServerSettings(draft=str(folder)))


def test_a_model_beyond_the_memory_is_not_loaded(folder, monkeypatch):
    monkeypatch.setattr("ordito.checkpoint.store.installed", lambda: [store.locate(str(folder))])
    with running([], memory=1000) as url:
        told = error(httpx.post(f"{url}/v1/chat/completions", json={"messages": HI}), 500)
        assert "--memory" in told["message"]
        assert httpx.get(f"{url}/api/ps").json()["models"] == []


def test_models_loaded_at_once_respect_the_memory_limit(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)

    async def loaded():
        room = max(one.local.size for one in ModelPool([str(folder), str(other)], ServerSettings()).served)
        pool = ModelPool([str(folder), str(other)], ServerSettings(memory=room))

        async def use(name):
            async with pool.use(name):
                pass

        await asyncio.gather(use(folder.name), use("other"))
        names = [one.name for one in pool.served if one.loaded]
        await pool.close()
        return names

    assert len(asyncio.run(loaded())) == 1
