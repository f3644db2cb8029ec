"""`ordito convert`: from folder to file and back, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

import ordito


def test_converting_to_gguf_and_back(cli, folder, tmp_path):
    source = ordito.load(folder)
    ids = source.tokenizer.encode("the warp and the weft")
    cli("convert", folder, tmp_path / "x.gguf", "--dtype", "f32")
    file = ordito.load(tmp_path / "x.gguf")
    assert file.tokenizer.encode("the warp and the weft") == ids
    assert np.abs(file.logits(ids) - source.logits(ids)).max() <= 1e-4
    assert file.tokenizer.chat_template == source.tokenizer.chat_template
    cli("convert", tmp_path / "x.gguf", tmp_path / "back")
    back = ordito.load(tmp_path / "back")
    assert back.tokenizer.encode("the warp and the weft") == ids
    assert np.abs(back.logits(ids) - source.logits(ids)).max() <= 1e-4


@pytest.mark.parametrize(("dtype", "loss"), [("f16", 2e-2), ("bf16", 0.2), ("q8_0", 0.2)])
def test_dtypes(cli, folder, tmp_path, dtype, loss):
    source = ordito.load(folder)
    cli("convert", folder, tmp_path / "x.gguf", "--dtype", dtype)
    found = ordito.load(tmp_path / "x.gguf")
    assert dtype in found.checkpoint.encodings
    ids = source.tokenizer.encode("the warp and the weft")
    assert np.abs(found.logits(ids) - source.logits(ids)).max() <= loss * np.abs(source.logits(ids)).max()


def test_saving_a_loaded_model(folder, tmp_path):
    model = ordito.load(folder)
    assert ordito.save(model, tmp_path / "x.gguf", dtype="f32") == tmp_path / "x.gguf"
    ids = [1, 2, 3]
    assert np.abs(ordito.load(tmp_path / "x.gguf").logits(ids) - model.logits(ids)).max() <= 1e-4


def test_mistakes(cli, folder, tmp_path):
    out = tmp_path / "x.gguf"
    out.write_bytes(b"mine")
    assert "exists already" in cli("convert", folder, out, status=1).err
    assert out.read_bytes() == b"mine"
    assert "unknown quantization 'q4'" in cli("convert", folder, out, "--force", "--dtype", "q4", status=1).err
    assert out.read_bytes() == b"mine"
    assert "holds its weights as f32" in cli("convert", folder, tmp_path / "f", "--dtype", "q8_0", status=1).err
    assert "cannot be written" in cli("convert", folder, tmp_path / "no" / "x.gguf", status=1).err
    cli("convert", folder, out, "--force")
    assert out.read_bytes()[:4] == b"GGUF"


def test_names_of_files_and_folders(cli, folder, tmp_path):
    for command in ("convert", "quantize"):
        cli(command, folder, tmp_path / f"{command}.GGUF")
        assert (tmp_path / f"{command}.gguf").read_bytes()[:4] == b"GGUF"
    assert "OUT is empty" in cli("convert", folder, "", status=1).err
    for name in ("out.txt", "model.safetensors", "model.BIN"):
        assert "expected a name that ends in .gguf" in cli("convert", folder, tmp_path / name, status=1).err
        assert not (tmp_path / name).exists()
    (tmp_path / "there.bin").mkdir()
    for name in ("model-v0.1", "Llama-3.1-8B", "there.bin"):
        cli("convert", folder, tmp_path / name)
        assert (tmp_path / name / "config.json").is_file()


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_folders_in_16_bits(cli, folder, tmp_path, dtype):
    cli("convert", folder, tmp_path / "half", "--dtype", dtype)
    found, source = ordito.load(tmp_path / "half"), ordito.load(folder)
    assert set(found.checkpoint.encodings) == {dtype}
    ids = source.tokenizer.encode("the warp and the weft")
    assert np.abs(found.logits(ids) - source.logits(ids)).max() <= 0.1 * np.abs(source.logits(ids)).max()
