"""Models written to files: what is kept of what was said of them, and numbers that a type cannot hold."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ordito import saving
from ordito.checkpoint import gguf_write
from ordito.checkpoint.checkpoint import open_checkpoint
from ordito.checkpoint.gguf import read_gguf
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.checkpoint.store.cached import licence_of
from ordito.errors import OrditoError

ABOUT = {
    "general.type": "model",
    "general.name": "The Loom",
    "general.basename": "loom",
    "general.size_label": "270M",
    "general.license": "gemma",
    "general.license.link": "https://example.org/terms",
    "general.tags": ["weaving", "è"],
    "general.languages": [],
    "general.base_model.count": 1,
    "general.base_model.0.name": "The Spindle",
    "general.quantized_by": "a weaver",
    "general.sampling.temp": 0.7,
    "general.checked": True,
    "general.codes": np.array([1, 2], np.uint16),
}
"""What a file's authors say of it."""
ENCODED = {"general.file_type": 0, "general.quantization_version": 1, "general.alignment": 64}
"""What is said of how another file is written."""


@pytest.fixture
def described(folder, tmp_path, monkeypatch):
    """A GGUF file of the tiny model whose metadata has both, and data aligned otherwise than ours."""
    saving.convert(open_checkpoint(folder), tmp_path / "plain.gguf", dtype="f32")
    plain = read_gguf(tmp_path / "plain.gguf")
    planned = [gguf_write.Planned(name, tensor.shape, "f32") for name, tensor in plain.tensors.items()]
    arrays = [(name, tensor.to_float32()) for name, tensor in plain.tensors.items()]
    with monkeypatch.context() as patched:
        patched.setattr(gguf_write, "ALIGNMENT", 64)
        gguf_write.write_gguf(tmp_path / "described.gguf", plain.metadata | ABOUT | ENCODED, planned, arrays)
    return tmp_path / "described.gguf"


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_a_file_keeps_what_is_said_of_its_model(described, tmp_path, dtype):
    saving.convert(open_checkpoint(described), tmp_path / "x.gguf", dtype=dtype)
    found = read_gguf(tmp_path / "x.gguf")
    for key, value in ABOUT.items():
        assert np.array_equal(found.metadata[key], value), key
    assert found.metadata["general.architecture"] == "llama"
    assert found.metadata["general.file_type"] == {"f16": 1, "q8_0": 7}[dtype]
    assert found.metadata["general.quantization_version"] == 2
    assert "general.alignment" not in found.metadata
    assert found.alignment == 32
    norm = "output_norm.weight"
    assert np.array_equal(found.tensors[norm].to_float32(), read_gguf(described).tensors[norm].to_float32())


def test_a_model_without_a_name_is_called_like_its_file(folder, tmp_path):
    saving.convert(open_checkpoint(folder), tmp_path / "first.gguf")
    metadata = read_gguf(tmp_path / "first.gguf").metadata
    assert metadata["general.name"] == "first"
    assert "general.license" not in metadata


@pytest.mark.parametrize(("stated", "kept"), [("gemma", "gemma"), ("two\nlines: x", None), (5, None)])
def test_the_licence_of_a_file_becomes_that_of_a_model_card(described, tmp_path, stated, kept):
    checkpoint = open_checkpoint(described)
    checkpoint = replace(checkpoint, metadata={**checkpoint.metadata, "general.license": stated})
    saving.convert(checkpoint, tmp_path / "folder")
    assert licence_of(tmp_path / "folder") == kept
    (tmp_path / "folder" / "README.md").write_text("mine")
    saving.convert(checkpoint, tmp_path / "folder")
    assert (tmp_path / "folder" / "README.md").read_text() == "mine"


def test_the_licence_of_a_model_card(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "README.md").write_text("---\nlanguage: it\nlicense: mit\n---\n# A model\n", encoding="utf-8")
    saving.convert(open_checkpoint(copy), tmp_path / "x.gguf")
    assert read_gguf(tmp_path / "x.gguf").metadata["general.license"] == "mit"
    (copy / "README.md").write_text("---" + "\n" * 300_000, encoding="utf-8")  # to be read once, not once for every line
    saving.convert(open_checkpoint(copy), tmp_path / "y.gguf")
    assert "general.license" not in read_gguf(tmp_path / "y.gguf").metadata


def with_one(folder, copy, number):
    """A copy of a model, one weight of which is `number`."""
    shutil.copytree(folder, copy)
    tensors = {
        name: tensor.to_float32().copy() for name, tensor in read_safetensors(copy / "model.safetensors").tensors.items()
    }
    tensors["model.layers.1.self_attn.q_proj.weight"][5, 3] = number
    write_safetensors(copy / "model.safetensors", tensors)
    return open_checkpoint(copy)


@pytest.mark.parametrize(
    ("name", "dtype", "number", "encoding"),
    [
        ("x.gguf", None, 1e5, "f16"),
        ("x.gguf", "f16", -1e5, "f16"),
        ("x.gguf", "q8_0", 1e7, "q8_0"),
        ("x.gguf", "q4_0", 1e7, "q4_0"),
        ("folder", "f16", 1e5, "f16"),
    ],
)
def test_numbers_that_are_too_large(folder, tmp_path, name, dtype, number, encoding):
    checkpoint, out = with_one(folder, tmp_path / "copy", number), tmp_path / "out"
    out.mkdir()
    told = re.escape(f".weight' holds {number:g}, which is too large for {encoding}: choose bf16 or f32")
    with pytest.raises(OrditoError, match=rf"^tensor '.*\.1\..*q.*{told}$"):
        saving.convert(checkpoint, out / name, dtype=dtype)
    assert not list(out.iterdir())
    for wider, near in (("bf16", 4e-3), ("f32", 0)):
        saving.convert(checkpoint, out / name, dtype=wider)
        largest = max(np.abs(array).max() for _, array in open_checkpoint(out / name))
        assert abs(largest - abs(number)) <= near * abs(number)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(OrditoError, match=r"save: got str, expected a model: ordito\.load"):
        saving.save("smollm2", tmp_path / "x.gguf")
