"""`ordito explain`, `compare`, `fit` and `bench`: what they print, and their errors."""

from __future__ import annotations

import csv
import io
import json
import shutil

import pytest

import ordito
from ordito import fitting
from ordito.accounting import account


def test_explain(cli, folder):
    done = cli("explain", folder).out
    spec = ordito.load(folder).spec
    counted = account(spec)
    assert f"{counted.parameters.total:,}" in done
    size = (folder / "model.safetensors").stat().st_size
    assert f"= {size:,}, the size of the file." in done
    assert "2 x layer  (0-1)" in done


def test_explain_as_json(cli, folder):
    data = json.loads(cli("explain", folder, "--json").out)
    counted = account(ordito.load(folder).spec)
    assert data["parameters"]["total"] == data["parameters"]["active"] == counted.parameters.total
    assert data["kv_cache"]["bytes_per_token"] == 2 * 2 * 2 * 2 * 8
    assert data["kv_cache"]["at"]["4096"] == 4096 * data["kv_cache"]["bytes_per_token"]
    assert data["flops"]["decode_per_token"] == counted.flops.decode().total
    file = data["file"]
    assert data["bytes"]["weights"] + file["other_tensors"] + file["overhead"] == file["bytes"]


@pytest.mark.parametrize(
    ("name", "total", "active", "kv"),
    [
        ("mixtral-8x7b", 46_702_792_704, 12_879_925_248, 131_072),
        ("deepseek-v3", 671_026_404_352, 37_552_282_624, 70_272),
        ("gpt-oss-120b", 116_829_156_672, 5_711_982_912, 73_728),
        ("gpt2", 124_439_808, 124_439_808, 36_864),
    ],
)
def test_explain_published_models_without_any_file(cli, name, total, active, kv):
    data = json.loads(cli("explain", name, "--json").out)
    assert (data["parameters"]["total"], data["parameters"]["active"]) == (total, active)
    assert data["kv_cache"]["bytes_per_token"] == kv
    assert data["file"] is None


@pytest.mark.parametrize("options", [[], ["--kv"]])
def test_explain_says_what_the_catalogue_notes(cli, options):
    assert "\nfrom the catalogue: a LoRA adapter: the sizes are" in cli("explain", "fauno-7b", *options).out
    assert "\nfrom the catalogue\n" in cli("explain", "llama-3-8b", *options).out


@pytest.mark.filterwarnings("always::ordito.errors.OrditoWarning")
def test_shipped_models_are_fetched_only_for_their_weights(cli, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ORDITO_HOME", str(tmp_path / "file"))  # a download fails, with a warning
    for command in (("explain",), ("compare", "gemma3-270m"), ("draw",), ("fit", "--memory", "1", "--bandwidth", "9")):
        done = cli(*command, "smollm2")
        assert done.err == ""
    assert "= 98,362,432, the size of the file." in cli("explain", "smollm2").out
    for command in (("explain", "--trace", "a"), ("compare", "smollm2")):
        assert "cannot write below" in cli(*command, "smollm2").err


def test_explain_the_cache(cli):
    done = cli("explain", "gemma-3-27b", "--kv").out
    assert "window of 1,024" in done
    assert "without windows" in done
    assert "The cache outgrows the weights" in done
    assert "has no KV cache" in cli("explain", "bert-base-uncased", "--kv").out


def test_explain_a_token(cli, folder):
    done = cli("explain", folder, "--trace", "the warp", "--layer", "1").out
    assert "Token ' warp'" in done
    assert "layer 1" in done
    assert "the most probable next tokens" in done
    assert "formulas and shapes" in cli("explain", folder / "config.json", "--trace", "x").out
    data = json.loads(cli("explain", folder, "--trace", "the warp", "--json").out)
    assert [token["text"] for token in data["tokens"]] == ["the", " warp"]
    assert "expected 0 to 1" in cli("explain", folder, "--trace", "x", "--layer", "2", status=1).err
    assert "give --trace TEXT" in cli("explain", folder, "--layer", "0", status=1).err
    assert "exclude each other" in cli("explain", folder, "--trace", "x", "--kv", status=1).err


def test_compare(cli):
    done = cli("compare", "llama-2-7b", "llama-3-8b", "llama-3.1-8b").out
    (row,) = [line for line in done.splitlines() if "n_kv_heads" in line]
    assert row.split() == ["≠", "n_kv_heads", "32", "8", "8"]
    assert "head_dim" in done
    assert "head_dim" not in cli("compare", "llama-2-7b", "llama-3-8b", "-d").out
    data = json.loads(cli("compare", "llama-2-7b", "llama-3-8b", "--json").out)
    assert data["models"] == ["Llama 2 7B", "Llama 3 8B"]
    assert "at least two" in cli("compare", "llama-2-7b", status=1).err
    assert "no model" in cli("compare", "llama-2-7b", "llama-99", status=1).err


def test_compare_weights(cli, folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    model = ordito.load(folder, backend="torch")
    weights = model.runtime.module.layers[1].mlp.up.weight
    weights.data.mul_(1.5)
    ordito.save(model, other)
    data = json.loads(cli("compare", folder, other, "--json").out)
    changed = {name: change for name, change in data["weights"].items() if change}
    assert changed == {"layers.1.mlp.up.weight": pytest.approx(0.5, rel=1e-5)}
    assert "layer 1" in cli("compare", folder, other).out
    assert "Weights" not in cli("compare", folder, other, "--no-weights").out
    assert "weights are compared for two models" in cli("compare", folder, other, folder).err
    assert "weights are" not in cli("compare", folder, other, folder, "--no-weights").err
    assert "weights are" not in cli("compare", "llama-2-7b", "llama-3-8b", "llama-3.1-8b").err


@pytest.fixture
def machine(monkeypatch):
    """A machine with fixed figures, so that nothing is measured."""

    def known(memory=None, bandwidth=None, flops=None, threads=None):
        return fitting.Machine(cores=2, memory=memory or 10**10, bandwidth=bandwidth or 2e10, flops=1e11)

    monkeypatch.setattr(fitting, "this_machine", known)


def test_fit(cli, folder, machine):
    data = json.loads(cli("fit", "llama-3.1-8b", "-q", "Q4_K_M", "--memory", "16", "--bandwidth", "50", "--json").out)
    assert data["machine"]["memory"] == 16 * 10**9
    assert data["machine"]["bandwidth"] == 50e9
    assert data["stored_as"] == "Q4_K_M"
    assert {choice["name"] for choice in data["quantizations"]} >= {"Q4_K_M", "Q8_0", "BF16"}
    done = cli("fit", folder, "--context", "32").out
    assert "largest context that fits" in done
    assert "decode at 32 tokens" in done
    assert "a context of 999" in cli("fit", folder, "--context", "999", status=1).err
    assert "--memory" in cli("fit", folder, "--memory", "-1", status=1).err
    assert "unknown quantization" in cli("fit", folder, "--quant", "Q9", status=1).err


def test_doctor(cli, folder, machine):
    data = json.loads(cli("doctor", folder, "--json").out)
    assert data["kernels"] == data["available"][0]
    assert data["threads"] >= 1
    assert data["decode"] > 0
    done = cli("doctor", folder).out
    assert "decoding at" in done
    assert f"after {data['context']:,} tokens" in done
    assert data["kernels"] in done


def test_bench(cli, folder, machine):
    options = ("-p", "8", "-n", "4", "-d", "0,16", "-r", "2")
    data = json.loads(cli("bench", folder, *options, "--json").out)
    assert [figure["test"] for figure in data["figures"]] == ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]
    assert all(figure["tokens_per_second"] > 0 for figure in data["figures"])
    rows = list(csv.DictReader(io.StringIO(cli("bench", folder, *options, "-o", "csv").out)))
    assert [row["test"] for row in rows] == ["pp8", "tg4", "pp8 @ d16", "tg4 @ d16"]
    for form in ((), ("-o", "markdown"), ("-o", "md")):
        assert "| tg4 @ d16 |" in cli("bench", folder, *options, *form).out
    again = ("-p", "8", "-p", "4,2", "-n", "3", "-n", "1", "-d", "0", "-r", "1", "-o", "jsonl")
    objects = [json.loads(line) for line in cli("bench", folder, *again).out.splitlines()]
    assert [one["test"] for one in objects] == ["pp8", "pp4", "pp2", "tg3", "tg1"]
    assert {one["threads"] for one in objects} == {data["threads"]}
    assert "--json and --output csv contradict" in cli("bench", folder, "-o", "csv", "--json", status=1).err
    assert "expected at most 64" in cli("bench", folder, status=1).err
    assert "whole numbers" in cli("bench", folder, "-p", "8,x", status=1).err
    assert "up to 999,999,999" in cli("bench", folder, "-p", "9" * 20, status=1).err
    assert "nothing to measure" in cli("bench", folder, "-p", "0", "-n", "0", status=1).err
    assert "1<=x<=1024" in cli("bench", folder, "-t", "100000", status=2).err
    assert "expected one of" in cli("bench", folder, "-o", "xml", status=1).err


def test_bench_of_an_encoder(cli, machine, tmp_path):
    import transformers

    sizes = {"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.BertModel(transformers.BertConfig(vocab_size=300, **sizes)).save_pretrained(tmp_path)
    assert "cannot generate text: -n is ignored" in cli("bench", tmp_path, "-p", "8", "-n", "4", "-r", "1").err
    assert "cannot generate text: -d is ignored" in cli("bench", tmp_path, "-p", "8", "-d", "16", "-r", "1").err
    assert cli("bench", tmp_path, "-p", "8", "-r", "1").err == ""
    assert "give -p a length" in cli("bench", tmp_path, "-p", "0", status=1).err


def test_catalogue(cli):
    done = cli("catalogue", "--family", "gemma").out
    assert "Gemma 3 27B" in done
    assert "Llama" not in done
    data = json.loads(cli("catalogue", "--sort", "active", "--kind", "open", "--json").out)
    active = [model["active"] for model in data]
    assert active == sorted(active, reverse=True)
    assert {model["family"] for model in json.loads(cli("catalogue", "--since", "2025-06", "--json").out)} >= {"gpt", "claude"}
    assert "closed; input: text" in cli("catalogue", "gpt-4o").out
    assert "\n1 model. " in cli("catalogue", "gpt-4o-mini").out
    assert cli("catalogue", "llama-3.1-8b").out == cli("catalogue", "Llama 3.1 8B").out
    assert "such as 2024" in cli("catalogue", "--since", "2024-13", status=1).err
    assert "did you mean gemma" in cli("catalogue", "--family", "gema", status=1).err
    assert "unknown order" in cli("catalogue", "--sort", "size", status=1).err
    assert "such as 2024" in cli("catalogue", "--since", "yesterday", status=1).err
    assert "expected open" in cli("catalogue", "--kind", "free", status=1).err
    assert "no model" in cli("catalogue", "nothing is called so", status=1).err
