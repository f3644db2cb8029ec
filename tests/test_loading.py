"""`ordito.load`, with an adapter too, on a tiny model with a tokenizer of its own."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import ordito
from ordito.checkpoint.adapter import LowRank
from ordito.checkpoint.adapter_write import write_adapter
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.errors import CheckpointError, ModelNotFoundError, OrditoError

IDS = [5, 6, 7, 8]


@pytest.mark.parametrize("backend", ["torch", None])
def test_backends_by_name(folder, backend):
    assert ordito.load(folder, backend=backend).logits([1, 2]).shape[0] == 2


def test_an_unknown_backend_is_refused(folder):
    with pytest.raises(OrditoError, match="did you mean torch"):
        ordito.load(folder, backend="toch")


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_half_a_model_is_refused(folder, tmp_path, missing):
    for name in {"config.json", "model.safetensors"} - {missing}:
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises((CheckpointError, ModelNotFoundError)):
        ordito.load(tmp_path)


def test_a_prompt_format_can_be_named(folder):
    named = ordito.load(folder, prompt_format="camoscio")
    rendered = named.template.render([{"role": "user", "content": "Elenca tre città del Lazio."}])
    assert "### Istruzione:\nElenca tre città del Lazio.\n\n### Risposta:\n" in rendered
    with pytest.raises(OrditoError, match=r"unknown prompt format 'camoscoi', expected one of .*camoscio"):
        ordito.load(folder, prompt_format="camoscoi").chat([{"role": "user", "content": "hi"}])


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    """An adapter of the tiny model that says where its base is."""
    path, random = tmp_path_factory.mktemp("adapter"), np.random.default_rng(0)
    a, b = random.normal(size=(4, 32)).astype(np.float32), random.normal(size=(32, 4)).astype(np.float32)
    names = [f"model.layers.{n}.self_attn.{part}_proj" for n in range(2) for part in "qo"]
    write_adapter(path, {name: LowRank(a, b, 0.1) for name in names}, base=str(folder))
    return path


@pytest.fixture(scope="module")
def base_logits(folder):
    return ordito.load(folder).logits(IDS)


@pytest.fixture(scope="module")
def logits(folder, adapter):
    return ordito.load(folder, adapter=adapter).logits(IDS)


def test_beside_the_weights_is_merged_into_them(folder, adapter, logits, base_logits):
    model = ordito.load(folder, adapter=str(adapter), merge=False)
    assert np.abs(model.logits(IDS) - logits).max() <= 1e-5 * np.abs(logits).max()
    assert np.abs(logits - base_logits).max() > 0.01
    model.runtime.adapters.use(None)
    assert np.abs(model.logits(IDS) - base_logits).max() <= 1e-5 * np.abs(base_logits).max()


def test_an_adapter_loads_with_the_base_that_it_names(adapter, logits):
    assert np.array_equal(ordito.load(adapter).logits(IDS), logits)
    assert np.array_equal(ordito.load(adapter / "adapter_model.safetensors").logits(IDS), logits)


def test_a_merged_model_is_saved_whole(folder, adapter, logits, tmp_path):
    ordito.save(ordito.load(folder, adapter=adapter), tmp_path / "whole")
    assert np.array_equal(ordito.load(tmp_path / "whole").logits(IDS), logits)
    with pytest.raises(OrditoError, match="load it with merge=True"):
        ordito.save(ordito.load(folder, adapter=adapter, merge=False), tmp_path / "half")


def named(adapter, tmp_path, base):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    config = json.loads((copy / "adapter_config.json").read_text()) | {"base_model_name_or_path": base}
    (copy / "adapter_config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize("base", ["decapoda-research/llama-7b-hf", "/nowhere/at/all", "no name", "", None])
def test_a_base_that_cannot_be_had_is_told_with_the_way_out(adapter, tmp_path, monkeypatch, base):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match=r"ordito\.load\(BASE, adapter=\.\.\.\)") as caught:
        ordito.load(named(adapter, tmp_path, base))
    assert str(base or "does not say of which model") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_adapter_is_no_base(adapter, tmp_path):
    copy = named(adapter, tmp_path, str(adapter))
    with pytest.raises(CheckpointError, match="holds an adapter and no model"):
        ordito.load(copy)


def test_what_needs_a_model_says_how_an_adapter_becomes_one(folder, adapter, tmp_path):
    with pytest.raises(CheckpointError, match=r"ordito\.save\(ordito\.load\(\.\.\.\), OUT\)"):
        open_checkpoint(adapter)
    ordito.save(ordito.load(named(adapter, tmp_path, str(folder))), tmp_path / "merged")
    assert np.array_equal(ordito.load(tmp_path / "merged").logits(IDS), ordito.load(folder, adapter=adapter).logits(IDS))


def test_the_tokenizer_is_the_adapters_where_it_brings_one(folder, adapter, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, copy)
    (copy / "chat_template.jinja").write_text("{% for m in messages %}other{% endfor %}")
    messages = [{"role": "user", "content": "hi"}]
    model = ordito.load(folder, adapter=copy)
    assert model.encode_chat(messages) == model.tokenizer.encode("other")
    assert ordito.load(folder, adapter=adapter).encode_chat(messages) == ordito.load(folder).encode_chat(messages)


def test_run_takes_an_adapter(folder, adapter, capsys, monkeypatch):
    from ordito.cli import main

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["ordito", "run", *map(str, arguments), "the loom", "--temperature", "0", "--json"])
        monkeypatch.setattr("sys.stdin", None)
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return json.loads(capsys.readouterr().out)["token_ids"]

    expected = ordito.load(adapter).chat([{"role": "user", "content": "the loom"}], max_tokens=1024).token_ids
    assert run(folder, "--adapter", adapter) == run(adapter) == expected
    assert run(folder) != expected
