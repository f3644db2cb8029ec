"""`ordito train` as it is typed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
import training_runs as runs

QUICK = ["--set", "length=128", "--set", "batch_size=4", "--set", "precision=float32", "--set", "threads=1"]


@pytest.fixture
def chats(tmp_path):
    return runs.chats(tmp_path / "chats.jsonl")


def test_a_run_from_its_command_to_an_answer(cli, folder, chats, tmp_path):
    output = tmp_path / "out"
    sets = ["--set", "steps=3", "--set", "samples=warp weft", "--set", "sample_every=3", "--set", f"eval_data={chats}"]
    command = ["train", "sft", "--model", folder, "--data", chats, "--output", output, *QUICK, *sets]
    done = subprocess.run([sys.executable, "-m", "ordito", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "step 3/3" in done.stderr
    assert "of peak" in done.stderr
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3]
    assert {"loss", "lr", "tokens_per_second", "grad_norm"} <= records[0].keys()
    assert "eval_loss" in records[-1]
    assert (output / "loss.svg").read_text().startswith("<svg")
    assert json.loads((output / "samples.jsonl").read_text())["prompt"] == "warp weft"
    cli("run", output, "warp weft", "--max-tokens", 4)
    cli("train", "--resume", "--output", output)
    assert [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()] == records


def test_a_file_of_settings(cli, folder, chats, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(f"objective: sft\nmodel: {folder}\ndata: {chats}\noutput: {tmp_path / 'out'}\nsteps: 1\nlength: 128\n")
    cli("train", "--config", file, "--set", "steps=2", *QUICK)
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2


def test_inspection_shows_what_is_learned(cli, folder, chats, tmp_path):
    done = cli("train", "sft", "--model", folder, "--data", chats, "--output", tmp_path / "out", *QUICK, "--inspect")
    assert "<|im_end|>" in done.out
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


ENDLESS = [*QUICK, "--set", "steps=100000", "--set", "save_every=100000"]


def wait_for_a_step(output):
    deadline = time.monotonic() + 120
    while not (output / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def assert_it_was_kept(said, output):
    assert "stopped at step" in said
    assert "--resume" in said
    steps = len((output / "metrics.jsonl").read_text().splitlines())
    assert (output / "checkpoints" / f"step-{steps:08d}" / "state.json").is_file()


def test_a_run_that_gets_a_signal_keeps_what_it_has(folder, chats, tmp_path):
    output = tmp_path / "out"
    command = ["train", "sft", "--model", folder, "--data", chats, "--output", output, *ENDLESS]
    process = subprocess.Popen([sys.executable, "-m", "ordito", *map(str, command)], stderr=subprocess.PIPE, text=True)
    wait_for_a_step(output)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert_it_was_kept(said, output)


@pytest.mark.parametrize("how", ["file", "time"])
def test_a_run_that_is_stopped_keeps_what_it_has(cli, how, folder, chats, tmp_path):
    output = tmp_path / "out"

    def stop():
        wait_for_a_step(output)
        (output / "STOP").touch()

    stopping = threading.Thread(target=stop)
    if how == "file":
        stopping.start()
    limit = ["--max-time", "0.02"] if how == "time" else []
    said = cli("train", "sft", "--model", folder, "--data", chats, "--output", output, *ENDLESS, *limit).err
    if how == "file":
        stopping.join()
    assert_it_was_kept(said, output)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train"], "no objective is named"),
        (["train", "sfft"], "did you mean sft"),
        (["train", "sft"], "'model' is missing"),
        (["train", "sft", "--model", "MODEL", "--data", "none.jsonl", "--output", "OUT"], "none.jsonl"),
        (["train", "sft", "--model", "nowhere/", "--data", "DATA", "--output", "OUT"], "nowhere"),
        (["train", "--resume", "--output", "OUT"], "there is no run"),
        (["train", "pretrain", "--model", "MODEL", "--data", "DATA", "--output", "OUT"], "has no text under 'text'"),
        (["train", "sft", "--model", "MODEL", "--data", "DATA", "--output", "OUT", "--set", "moe.balance=1"], "upcycle"),
        (
            [
                "train",
                "sft",
                "--model",
                "MODEL",
                "--data",
                "DATA",
                "--output",
                "OUT",
                "--set",
                "adapter=lora",
                "--set",
                "lora.targets=qq",
            ],
            "qq",
        ),
    ],
)
def test_mistakes_are_one_sentence(cli, words, told, folder, chats, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    named = {"MODEL": folder, "DATA": chats, "OUT": tmp_path / "out"}
    said = cli(*(named.get(word, word) for word in words), status=1).err
    last = said.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert told in last
    assert "Traceback" not in said
