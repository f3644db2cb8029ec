"""Models at local paths."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ordito.checkpoint import store
from ordito.errors import ModelNotFoundError


def put(folder: Path, *names: str, size: int = 3) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    return folder


def test_a_gguf_file(tmp_path: Path) -> None:
    put(tmp_path, "a.gguf", "b.gguf")
    model = store.locate(str(tmp_path / "a.gguf"), offline=True)
    assert (model.path, model.source, model.size, model.licence) == (tmp_path / "a.gguf", "path", 3, None)


@pytest.mark.parametrize("given", ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "."])
def test_any_part_of_a_split_file_means_the_whole(tmp_path: Path, given: str) -> None:
    put(tmp_path, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "mmproj.gguf")
    model = store.locate(str(tmp_path / given))
    assert (model.path.name, model.size) == ("m-00001-of-00002.gguf", 6)


@pytest.mark.parametrize("given", ["model.safetensors", "config.json", "."])
def test_a_folder_with_safetensors(tmp_path: Path, given: str) -> None:
    put(tmp_path, "config.json", "model.safetensors", "tokenizer.json", "pytorch_model.bin")
    model = store.locate(str(tmp_path / given))
    assert (model.path, model.size) == (tmp_path, 9)


def test_a_config_alone_is_enough_to_be_shown(tmp_path: Path) -> None:
    assert store.locate(str(put(tmp_path, "config.json"))).path == tmp_path


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [
        (["a.gguf", "b.gguf"], ".", "several models; .*: a.gguf, b.gguf"),
        (["a.gguf", "config.json", "model.safetensors"], ".", "several models; .*: a.gguf, model.safetensors"),
        (["m-00001-of-00003.gguf", "m-00002-of-00003.gguf"], ".", "split into 3 files, of which 2 are there"),
        (["model.safetensors"], "model.safetensors", "no model: it has safetensors without their config.json"),
        (["x.txt"], ".", "no .gguf file and no config.json; .*adapter_config.json"),
        (["x.txt"], "x.txt", "expected a .gguf or .safetensors file"),
        (["config.json", "pytorch_model.bin"], ".", "only as pickles .*convert"),
        (["w.pt"], "w.pt", "is a pickle, which is never loaded .*convert it to safetensors"),
        (["w.bin"], "w.bin", "is a pickle"),
        (["w.pth"], "w.pth", "is a pickle"),
        (["model.gguf"], "modle.gguf", "there is no file .*did you mean model.gguf"),
        (["x.txt"], "none/model.gguf", "nor is there a folder"),
        ([], os.devnull, "is a device"),
    ],
)
def test_paths_that_hold_no_model(tmp_path: Path, names: list[str], given: str, told: str) -> None:
    put(tmp_path, *names)
    with pytest.raises(ModelNotFoundError, match=told):
        store.locate(str(tmp_path / given))


def test_a_shard_that_its_index_names_must_be_there(tmp_path: Path) -> None:
    put(tmp_path, "config.json", "model-00001-of-00002.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelNotFoundError, match=r"incomplete: .* names model-00002-of-00002"):
        store.locate(str(tmp_path))
    put(tmp_path, "model-00002-of-00002.safetensors")
    assert store.locate(str(tmp_path)).path == tmp_path
    for damaged in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": []}}'):
        index.write_text(damaged)
        with pytest.raises(ModelNotFoundError, match="no index of safetensors"):
            store.locate(str(tmp_path))


def test_pull_returns_what_is_there_and_remove_and_verify_leave_it_alone(tmp_path: Path) -> None:
    path = put(tmp_path, "a.gguf") / "a.gguf"
    assert not store.pull(str(path)).fetched
    with pytest.raises(ModelNotFoundError, match="not removed"):
        store.remove(str(path))
    with pytest.raises(ModelNotFoundError, match="no checksum to compare"):
        store.verify(str(path))
    assert path.exists()
