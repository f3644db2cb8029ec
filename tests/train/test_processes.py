"""Several processes compute what one does: same losses, checkpoints for any number of processes, one reports."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import training_processes
import training_runs as runs

import ordito
from ordito.checkpoint.safetensors import read_safetensors
from ordito.errors import ConfigError
from ordito.train import fit
from ordito.train.checkpoints import Checkpoints
from ordito.train.processes import Processes, joined
from ordito.train.run import CHECKPOINTS
from ordito.train.settings import ParallelSettings

TOLERANCE = 1e-6
ALL = {"eval_every": 2, "sample_every": 2, "samples": ["warp"], "sample_tokens": 4}
MOE = {"model": "qwen", "moe": {"balance": 0.01, "z": 0.001, "sequence_balance": 0.001}}
BIAS = {"model": "deepseek", "moe": {"bias_speed": 0.01}}
LORA = {"rank": 2, "targets": ("q", "v", "down")}
KINDS = {
    "sharded": ALL,
    "whole": {"parallel": {"data": "replicate"}},
    "rows for one only": {"batch_size": 1},
    "recomputed": {"recompute": True},
    "heads and channels": {"parallel": {"tensor": 2}},
    "heads with norms": {"model": "qwen", "parallel": {"tensor": 2}},
    "lora": {"adapter": "lora", "lora": LORA},
    "dora, head trained whole": {"adapter": "dora", "lora": LORA | {"saved": ("head",)}},
    "lora, merged": {"adapter": "lora", "lora": LORA | {"merge": True}},
    "lora beside experts": {"model": "qwen", "adapter": "lora", "lora": {"rank": 2, "targets": ("q", "v")}},
    "head of a task": {"objective": "classification", "classification": {"dropout": 0.0}},
    "muon": {"optimizer": "muon"},
    "mixtures": MOE,
    "experts": MOE | {"parallel": {"expert": 2}},
    "biases of routers": BIAS,
    "biases of routers, experts": BIAS | {"parallel": {"expert": 2}},
    "streamed": {"objective": "pretrain", "stream": True},
}
"""Muon makes all singular values equal, also those that are only rounding errors: after some steps, losses and weights of one
process with other micro-batches differ by 1e-5 too."""


@pytest.fixture(scope="module")
def place(folder, tmp_path_factory):
    """A folder with models and data."""
    path = tmp_path_factory.mktemp("processes")
    shutil.copytree(folder, path / "llama")
    import transformers

    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 8}
    sizes |= {"num_attention_heads": 4, "vocab_size": json.loads((folder / "config.json").read_text())["vocab_size"]}
    few = {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "tie_word_embeddings": True}
    latent = {"kv_lora_rank": 12, "q_lora_rank": 10, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
    routed = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
    _random(path / "qwen", folder, transformers.Qwen3MoeForCausalLM, transformers.Qwen3MoeConfig(**sizes | few))
    deep = transformers.DeepseekV3Config(**sizes | latent | routed | {"num_key_value_heads": 4})
    _random(path / "deepseek", folder, transformers.DeepseekV3ForCausalLM, deep)
    runs.chats(path / "sft.jsonl")
    runs.chats(path / "held.jsonl", 5)
    runs.texts(path / "pretrain.jsonl")
    labelled = [{"text": word, "label": "long" if len(word) > 4 else "short"} for word in runs.WORDS * 3]
    (path / "classification.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    return path


def _random(path, folder, kind, config):
    torch.manual_seed(0)
    model = kind(config)
    for name, parameter in model.named_parameters():
        parameter.data.add_((0.3 if "router" not in name else 0.02) * torch.randn_like(parameter))
    model.save_pretrained(path)
    for file in folder.glob("*token*"):
        shutil.copy(file, path)
    shutil.copy(folder / "chat_template.jinja", path)


def configured(place, kind, output, **more):
    """A short run of a kind; three rows per step, so that one process has two of them and the other has one."""
    values = {"length": 64, "batch_size": 3, "micro_batch": 1, "steps": 3, "save_every": 2, "keep": 9, "clip": 0.5}
    values |= {"model": "llama", "eval_data": ()} | KINDS[kind] | more
    objective = values.pop("objective", "sft")
    if "eval_every" in values:
        values["eval_data"] = [str(place / "held.jsonl")]
    folder = place / values.pop("model")
    return runs.configured(folder, place / f"{objective}.jsonl", output, objective, **values)


@pytest.fixture(scope="module")
def alone(place):
    """Outputs of one process, by kind, made on demand."""
    made = {}

    def output(kind):
        if kind not in made:
            made[kind] = place / f"{kind}, alone"
            fit(configured(place, kind, made[kind], parallel=ParallelSettings()))
        return made[kind]

    return output


def begun(output, to):
    """A copy of a run as it was after step 2."""
    shutil.copytree(output, to)
    kept = Checkpoints(to / CHECKPOINTS, 9)
    for step in kept.steps():
        if step > 2:
            shutil.rmtree(kept.path(step))
    return to


@pytest.fixture(scope="module")
def pair(place, alone):
    """The results of two processes, by job."""
    jobs = {kind: training_processes.job(configured(place, kind, place / kind)) for kind in KINDS}
    for kind in ("sharded", "heads and channels", "lora", "muon", "experts"):
        output = begun(alone(kind), place / f"{kind}, one then two")
        jobs[f"{kind}, one then two"] = training_processes.job(configured(place, kind, output), resume=True)
    for fault in training_processes.FAULTS:
        config = configured(place, "sharded", place / f"fault {fault}")
        jobs[f"fault {fault}"] = training_processes.job(config, fault=fault)
    jobs["finished"] = training_processes.job(configured(place, "sharded", place / "sharded"), resume=True)
    return training_processes.run(jobs, 2, place / "jobs")


def difference(ours, theirs):
    """The largest relative difference of any number that both runs measured; the records must have the same names."""
    found = []
    for a, b in zip(runs.metrics(ours), runs.metrics(theirs), strict=True):
        assert a.keys() == b.keys()
        found += [abs(a[key] - b[key]) / max(abs(b[key]), 1e-9) for key in a if a[key] != b[key]]
    return max(found, default=0.0) if all(np.isfinite(found)) else float("nan")


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_compute_what_one_does(kind, place, pair, alone):
    assert pair[kind] == [None, None]
    assert difference(place / kind, alone(kind)) <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_export_the_whole_model(kind, place, pair, alone):
    ours, theirs = place / kind, alone(kind)
    assert sorted(path.name for path in ours.iterdir()) == sorted(path.name for path in theirs.iterdir())
    for path in theirs.glob("*.safetensors"):
        a, b = ({name: t.data for name, t in read_safetensors(p).tensors.items()} for p in (ours / path.name, path))
        assert a.keys() == b.keys()
        for name in a:
            x, y = (np.frombuffer(bytes(found[name].tobytes()), np.float32) for found in (a, b))
            assert np.abs(x - y).max() <= (1e-3 if kind == "muon" else 1e-5), name
    if kind == "sharded":
        assert (ours / "samples.jsonl").read_text() == (theirs / "samples.jsonl").read_text()
        assert ordito.load(ours).generate("warp", max_tokens=2) is not None


@pytest.mark.parametrize("kind", ["sharded", "heads and channels", "lora", "muon", "experts"])
def test_a_checkpoint_of_one_process_resumes_in_two(kind, place, pair, alone):
    assert pair[f"{kind}, one then two"] == [None, None]
    assert difference(place / f"{kind}, one then two", alone(kind)) <= TOLERANCE


@pytest.mark.parametrize("kind", ["sharded", "whole", "heads and channels", "lora", "muon", "experts", "biases of routers"])
def test_a_checkpoint_of_two_processes_resumes_in_one(kind, place, pair, alone, tmp_path):
    output = begun(place / kind, tmp_path / "out")
    fit(configured(place, kind, output, parallel=ParallelSettings()), resume=True)
    assert difference(output, alone(kind)) <= TOLERANCE


def test_an_error_of_one_process_is_raised_in_all(place, pair):
    nan = pair["fault nan"]
    assert nan[0] == nan[1]
    assert nan[0].startswith("NotFiniteError: step 1: the loss is")
    assert "gradient is nan" in nan[0]
    assert Checkpoints(place / "fault nan" / CHECKPOINTS, 1).steps() == [0]
    assert pair["fault broken"] == ["OrditoError: the model is not there"] * 2
    full = pair["fault full"]
    assert full[0] == full[1]
    assert full[0].startswith("CheckpointError")
    assert "No space left on device" in full[0]
    assert not list((place / "fault full" / CHECKPOINTS).iterdir())


def test_a_stop_of_one_process_stops_all(place, pair):
    assert pair["fault stop"] == ["it was asked to"] * 2
    assert [record["step"] for record in runs.metrics(place / "fault stop")] == [1]
    assert Checkpoints(place / "fault stop" / CHECKPOINTS, 1).steps() == [1]


def test_a_damaged_sharded_checkpoint_is_skipped(place, pair, alone, tmp_path):
    shutil.copytree(place / "sharded", tmp_path / "out")
    kept = Checkpoints(tmp_path / "out" / CHECKPOINTS, 9)
    shard = next(kept.path(3).glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 255
    shard.write_bytes(content)
    with pytest.warns(UserWarning, match=shard.name):
        fit(configured(place, "sharded", tmp_path / "out"), resume=True)
    assert difference(tmp_path / "out", alone("sharded")) <= TOLERANCE


def test_data_parallel_with_tensor_or_expert_parallel_in_four_processes(place, alone, pair):
    jobs = {}
    for kind, axis in (("heads with norms", "tensor"), ("experts", "expert")):
        output = begun(place / kind, place / f"{kind}, four")
        config = configured(place, kind, output, parallel=ParallelSettings(**{axis: 2}))
        jobs[kind] = training_processes.job(config, resume=True)
    assert training_processes.run(jobs, 4, place / "four") == {kind: [None] * 4 for kind in jobs}
    for kind in jobs:
        assert difference(place / f"{kind}, four", alone(kind)) <= TOLERANCE


@pytest.mark.parametrize("start", [["-m", "ordito"], ["--no-python", os.path.join(os.path.dirname(sys.executable), "ordito")]])
def test_only_one_process_prints(start, place, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *start, "train", "sft"]
    settings = ["steps=1", "precision=float32", "threads=1", "length=64"]
    wrong = [] if start[0] == "-m" else ["parallel.tensor=3"]
    files = ["--model", str(place / "llama"), "--data", str(place / "sft.jsonl"), "--output", str(tmp_path / "out")]
    sets = [word for setting in settings + wrong for word in ("--set", setting)]
    done = subprocess.run(command + files + sets, capture_output=True, text=True, timeout=120)
    said = done.stderr
    if wrong:
        assert done.returncode != 0
        assert said.count("error: parallel: expert=1 times tensor=3 needs a multiple of 3 processes, got 2") == 1
    else:
        assert done.returncode == 0, said
        assert said.count("done: 1 steps") == said.count("objective: sft") == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tensor": 2, "model": "deepseek"}, "latent attention"),
        ({"tensor": 4}, "4 heads and 2 key-value heads"),
        ({"expert": 2}, "has no experts"),
        ({"expert": 3, "model": "qwen"}, "4 experts do not divide"),
    ],
)
def test_impossible_divisions_are_refused_before_any_change(values, message, place):
    from ordito.train import sharding
    from ordito.train.subject import open_subject

    model = values.pop("model", "llama")
    module = open_subject(configured(place, "sharded", "out", model=model)).module
    (axis, size), check = next(iter(values.items())), {"tensor": sharding._check_tensor, "expert": sharding._check_experts}
    with pytest.raises(ConfigError, match=message):
        check[axis](module, size)


def test_parallel_settings_need_several_processes():
    with pytest.raises(ConfigError, match="needs a multiple of 2 processes, got 1"), joined(ParallelSettings(tensor=2)):
        pass
    with joined(ParallelSettings()) as processes:
        assert processes == Processes()
        assert processes.share([1, 2]) == [1, 2]
        assert processes.agreed("it is late") == "it is late"
