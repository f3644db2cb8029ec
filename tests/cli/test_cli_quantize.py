"""`ordito quantize` and `ordito imatrix`."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

import ordito
from ordito.checkpoint.importance import read_importance
from ordito.errors import OrditoError, OrditoWarning


def off(found, source):
    ids = source.tokenizer.encode("the warp and the weft")
    return float(np.abs(found.logits(ids) - source.logits(ids)).mean() / np.abs(source.logits(ids)).mean())


def test_quantize(cli, folder, tmp_path):
    source = ordito.load(folder)
    told = cli("quantize", folder, tmp_path / "x.gguf", "q8_0").err
    assert "as Q8_0" in told
    assert "bits a weight" in told
    assert off(ordito.load(tmp_path / "x.gguf"), source) < 0.05
    cli("quantize", folder, tmp_path / "y.gguf", "q4_0")
    assert (tmp_path / "y.gguf").stat().st_size < (tmp_path / "x.gguf").stat().st_size
    assert "q4_0" in ordito.load(tmp_path / "y.gguf").checkpoint.encodings
    assert "256, the block size of Q2_K" in cli("quantize", folder, tmp_path / "z.gguf", "q2_k").err
    assert "blocks" not in cli("quantize", folder, tmp_path / "w.gguf", "f16").err


def test_an_importance_matrix_is_written_and_used(cli, folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the warp and the weft " * 200)
    cli("imatrix", folder, "-f", text, "-o", tmp_path / "im.gguf", "-c", "32", "-n", "3")
    found = read_importance(tmp_path / "im.gguf")
    assert found.windows == 3
    assert found.datasets == ("text.txt",)
    assert {float(counts[0]) for counts in found.counts.values()} == {96.0}
    assert "blk.0.attn_q.weight" in found.sums
    assert np.array_equal(found.sums["blk.0.attn_q.weight"], found.sums["blk.0.attn_k.weight"])  # q and k have the same input
    cli("quantize", folder, tmp_path / "y.gguf", "q4_0", "--imatrix", tmp_path / "im.gguf")
    model = ordito.load(tmp_path / "y.gguf")
    assert model.checkpoint.metadata["quantize.imatrix.chunks_count"] == 3
    other = ordito.save(ordito.load(folder), tmp_path / "z.gguf", dtype="q4_0", importance=tmp_path / "im.gguf")
    assert other.read_bytes()[-1000:] == (tmp_path / "y.gguf").read_bytes()[-1000:]


def test_an_embedding_tied_to_the_head_has_no_importance(cli, folder, tmp_path):
    """As in llama.cpp: only the last token of a window reaches the head, and one token is no measure of importance."""
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=300, max_position_embeddings=64, tie_word_embeddings=True, **sizes)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "text.txt").write_text("the warp and the weft " * 20)
    cli("imatrix", tmp_path, "-f", tmp_path / "text.txt", "-o", tmp_path / "im.gguf", "-c", "16", "-n", "1")
    found = read_importance(tmp_path / "im.gguf")
    assert all(name.startswith("blk.") for name in found.sums)
    assert {float(counts[0]) for counts in found.counts.values()} == {16.0}


def test_an_encoder_needs_no_pooler(cli, folder, tmp_path):
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path)
    (tmp_path / "text.txt").write_text("the warp and the weft " * 20)
    cli("imatrix", tmp_path, "-f", tmp_path / "text.txt", "-o", tmp_path / "im.gguf", "-c", "16", "-n", "1")
    assert len(read_importance(tmp_path / "im.gguf").sums) == 6


@pytest.mark.parametrize("command", ["perplexity", "imatrix"])
def test_texts_that_cannot_be_read(cli, folder, tmp_path, command):
    text = tmp_path / "text.txt"
    command = [command, folder, "-f", text, *(("-o", tmp_path / "im.gguf") if command == "imatrix" else ())]
    text.write_text("short")
    assert "of 99 tokens, expected 4 to 64" in cli(*command, "-c", "99", status=1).err
    assert "one window" in cli(*command, "-c", "32", status=1).err
    text.write_bytes(b"the \xff")
    assert f"{text} is not UTF-8 at byte 4" in cli(*command, "-c", "32", status=1).err


def test_windows_are_limited_by_the_context(cli, folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the warp and the weft " * 60)
    told = cli("perplexity", folder, "-f", text).out
    assert told == cli("perplexity", folder, "-f", text, "-c", "64").out
    assert told == cli("perplexity", folder, "-f", "-", stdin=text.read_text()).out
    cli("imatrix", folder, "-f", "-", "-o", tmp_path / "im.gguf", "-n", "2", stdin=text.read_text())
    assert {float(counts[0]) for counts in read_importance(tmp_path / "im.gguf").counts.values()} == {128.0}
    assert "standard input is not UTF-8" in cli("perplexity", folder, "-f", "-", stdin=b"\xff", status=1).err


def test_quantizing_while_loading(cli, folder, tmp_path):
    source = ordito.load(folder)
    cli("quantize", folder, tmp_path / "x.gguf", "q4_0")
    file, loaded = ordito.load(tmp_path / "x.gguf"), ordito.load(folder, quantize="q4_0")
    ids = source.tokenizer.encode("the warp and the weft")
    assert np.abs(file.logits(ids) - loaded.logits(ids)).max() <= 1e-4 * np.abs(file.logits(ids)).max()
    assert off(loaded, source) > 0.001
    slow, exact = (ordito.load(folder, quantize="q4_0", backend=backend, dtype="float32") for backend in ("torch", "native"))
    assert np.abs(slow.logits(ids) - exact.logits(ids)).max() <= 1e-4 * np.abs(file.logits(ids)).max()
    assert np.abs(slow.logits(ids) - loaded.logits(ids)).max() <= 4e-3 * np.abs(file.logits(ids)).max()  # 12 bits
    assert loaded.checkpoint.nbytes < source.checkpoint.nbytes


def test_mistakes(cli, folder, tmp_path):
    out = tmp_path / "x.gguf"
    assert "ends in .gguf" in cli("quantize", folder, tmp_path / "x", status=1).err
    assert "did you mean" in cli("quantize", folder, out, "q4_km", status=1).err
    assert not out.exists()
    text = tmp_path / "short.txt"
    text.write_text("short")
    assert "is no importance matrix" in cli("quantize", folder, out, "q4_0", "--imatrix", text, status=1).err
    assert "no such file" in cli("quantize", folder, out, "q4_0", "--imatrix", tmp_path / "none", status=1).err
    cli("quantize", folder, out, "q4_0")
    assert "exists already" in cli("quantize", folder, out, "q4_0", status=1).err
    assert "is Q4_0 already" in cli("quantize", out, tmp_path / "y.gguf", "q4_1").err
    with pytest.warns(OrditoWarning, match="is Q4_0 already"):
        ordito.load(out, quantize="q8_0")
    with pytest.raises(OrditoError, match="unknown quantization"):  # and no warning before
        ordito.load(out, quantize="q4km")
