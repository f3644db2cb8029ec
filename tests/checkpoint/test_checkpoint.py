"""Every tensor of a file is mapped or ignored for a reason; every tensor of the spec is in the file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.export import write_folder
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import CheckpointError, ConfigError, OrditoWarning
from ordito.families import spec_from_config
from ordito.spec import Pooling

CONFIG = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}
SPEC = spec_from_config(CONFIG)


def weights(spec=SPEC):
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in spec.tensors().items()}


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, SPEC, weights())
    return tmp_path


def change(folder, **tensors):
    """Write the folder's weights again with some replaced, added, or (None) left out."""
    path = folder / "model.safetensors"
    now = {name: tensor.to_float32().copy() for name, tensor in read_safetensors(path).tensors.items()} | tensors
    write_safetensors(path, {name: value for name, value in now.items() if value is not None})


def test_round_trip(folder):
    checkpoint = open_checkpoint(folder)
    assert checkpoint.spec == SPEC
    assert all(np.array_equal(array, weights()[name]) for name, array in checkpoint)
    assert open_checkpoint(folder / "model.safetensors").spec == SPEC
    assert checkpoint.nbytes == 4 * sum(array.size for array in weights().values())


def test_shards_are_one_model(folder):
    tensors = read_safetensors(folder / "model.safetensors").tensors
    copies = {name: tensor.to_float32().copy() for name, tensor in tensors.items()}
    (folder / "model.safetensors").unlink()
    write_safetensors(folder / "model.safetensors", copies, max_shard_bytes=500)
    assert (folder / "model.safetensors.index.json").is_file()
    assert all(np.array_equal(array, weights()[name]) for name, array in open_checkpoint(folder))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.weight": None}, r"missing model\.norm\.weight"),
        ({"model.layers.0.self_attn.q_norm.weight": np.ones(4, np.float32)}, r"unknown model\.layers\.0\.self_attn\.q_norm"),
        ({"model.norm.weight": None, "model.nrom.weight": np.ones(8, np.float32)}, r"did you mean model\.nrom\.weight"),
        ({"model.norm.weight": np.ones(9, np.float32)}, r"shape \(9,\), expected \(8,\)"),
        ({"norm.weight": np.ones(8, np.float32)}, "other spellings"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder, tensors, message):
    change(folder, **tensors)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_a_copy_of_a_tied_head_is_ignored_with_a_reason(folder):
    change(folder, **{"lm_head.weight": weights()["embedding.tokens.weight"]})
    checkpoint = open_checkpoint(folder)
    assert checkpoint.spec == SPEC
    assert "tied" in checkpoint.ignored["lm_head.weight"]


def test_a_head_that_differs_is_kept(folder):
    change(folder, **{"lm_head.weight": np.ones((11, 8), np.float32)})
    with pytest.warns(OrditoWarning, match="differs from the embedding"):
        checkpoint = open_checkpoint(folder)
    assert checkpoint.spec.head.tied is False
    assert np.array_equal(checkpoint.read("head.weight"), np.ones((11, 8)))


def test_buffers_of_old_files_are_ignored_with_a_reason(folder):
    change(folder, **{"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)})
    assert len(open_checkpoint(folder).ignored) == 1


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '{"model_type": "llama"}', '{"model_type": "zebra"}'])
def test_a_file_that_is_no_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises((CheckpointError, ConfigError)):
        open_checkpoint(folder)


def test_a_giant_config_is_not_read(folder):
    (folder / "config.json").write_bytes(b" " * (17 << 20))
    with pytest.raises(CheckpointError, match="at most"):
        open_checkpoint(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt", "absent.gguf"])
def test_files_that_hold_no_weights_are_refused(tmp_path, name):
    if "absent" not in name:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "pooling", [Pooling(kind="mean", normalise=True, max_tokens=9), Pooling(kind="cls"), Pooling(kind="last")]
)
def test_pooling_round_trip(tmp_path, pooling):
    from dataclasses import replace

    spec = replace(SPEC, pooling=pooling)
    write_folder(tmp_path, spec, weights())
    assert open_checkpoint(tmp_path).spec == spec


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        ("{", None, "JSON"),
        ([{"type": "x.Dense", "path": ""}], None, "'Dense' is not supported"),
        ([{"type": "x.Pooling", "path": "../away"}], None, "leaves the model's folder"),
        ([{"type": "x.Pooling", "path": "p"}], {"pooling_mode_max_tokens": True}, "pools by"),
        ([{"type": "x.Pooling", "path": "p"}], {}, "pools by"),
    ],
)
def test_unknown_poolings_are_refused(folder, modules, pooling, message):
    (folder / "modules.json").write_text(modules if isinstance(modules, str) else json.dumps(modules))
    (folder / "p").mkdir()
    (folder / "p" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)
