"""A killed run resumes to the same numbers, bit for bit."""

from __future__ import annotations

import json
import random
import time

import forked
import pytest
import torch
import training_runs as runs

from ordito.errors import CheckpointError, OrditoError
from ordito.train import config_from, fit
from ordito.train.checkpoints import OPTIMIZER, STATE, WEIGHTS, Checkpoints
from ordito.train.listener import Quiet
from ordito.train.run import CHECKPOINTS

KINDS = {
    "whole": {},
    "dropout in a task's head": {"objective": "classification"},
    "muon": {"optimizer": "muon"},
    "adapter with dropout": {"adapter": "lora", "lora": {"rank": 2, "dropout": 0.2}},
    "streamed": {"stream": True, "objective": "pretrain"},
    "a teacher": {"objective": "distill"},
}


def made(kind, folder, tmp_path, output, **more):
    values = dict(KINDS[kind]) | more
    objective = values.pop("objective", "sft")
    data = tmp_path / f"{objective}.jsonl"
    if not data.exists():
        if objective == "sft":
            runs.chats(data)
        elif objective in ("pretrain", "distill"):
            runs.texts(data)
        else:
            rows = [{"text": word, "label": "long" if len(word) > 4 else "short"} for word in runs.WORDS * 3]
            data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if objective == "distill":
        values["distill"] = {"teacher": str(folder), "temperature": 2.0}
    return runs.configured(folder, data, output, objective, save_every=2, **values)


def final(output):
    """The weights of the last checkpoint."""
    return Checkpoints(output / CHECKPOINTS, 9).newest()


def same(a, b):
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def _go_on(values):
    fit(config_from(values), resume=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_run_resumes_to_the_same_bits(kind, folder, tmp_path):
    whole = made(kind, folder, tmp_path, tmp_path / "whole")
    fit(whole)
    killed = made(kind, folder, tmp_path, tmp_path / "killed")
    output, chance = tmp_path / "killed", random.Random(3)
    for upto in (1, 3):  # kill -9 at some point after these steps, whatever the process does then
        process = forked.start(_go_on, killed.to_dict())
        journal, deadline = output / "metrics.jsonl", time.monotonic() + 120
        while process.is_alive() and time.monotonic() < deadline:
            if journal.exists() and journal.read_text().count("\n") >= upto:
                time.sleep(0.02 * chance.random())
                break
            time.sleep(0.002)
        process.kill()
        process.join()
    fit(killed, resume=True)
    assert runs.metrics(output) == runs.metrics(tmp_path / "whole")
    ours, theirs = final(output), final(tmp_path / "whole")
    assert same(ours.weights, theirs.weights)
    assert same(ours.optimizer, theirs.optimizer)


def test_runs_are_reproducible_and_depend_on_the_seed(folder, tmp_path):
    data = runs.chats(tmp_path / "chats.jsonl")
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(runs.configured(folder, data, tmp_path / name, seed=seed))
    assert runs.metrics(tmp_path / "a") == runs.metrics(tmp_path / "b")
    assert runs.metrics(tmp_path / "a", "loss") != runs.metrics(tmp_path / "c", "loss")


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_checkpoint_is_named_and_skipped(name, damage, folder, tmp_path):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", save_every=2)
    fit(config)
    before = runs.metrics(tmp_path / "out")
    kept = Checkpoints(tmp_path / "out" / CHECKPOINTS, 2)
    path = kept.path(kept.steps()[-1]) / name
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=name):
        fit(config, resume=True)
    assert runs.metrics(tmp_path / "out") == before


def test_an_error_if_all_checkpoints_are_damaged(folder, tmp_path):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", keep=1)
    fit(config)
    (Checkpoints(tmp_path / "out" / CHECKPOINTS, 1).path(6) / WEIGHTS).write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(CheckpointError, match="no checkpoint is sound"):
        fit(config, resume=True)


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(folder, tmp_path):
    data = runs.chats(tmp_path / "chats.jsonl")
    config = runs.configured(folder, data, tmp_path / "out")
    fit(config)
    with pytest.raises(OrditoError, match="--resume"):
        fit(config)
    with pytest.raises(OrditoError, match=r"lr was 0\.001, got 0\.002"):
        fit(runs.configured(folder, data, tmp_path / "out", lr=2e-3), resume=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_run_does_not_go_on_with_other_data(stream, folder, tmp_path):
    data = runs.texts(tmp_path / "texts.jsonl")
    config = runs.configured(folder, data, tmp_path / "out", "pretrain", stream=stream, steps=4)
    fit(config)
    before = data.read_text()
    data.write_text(before + before.splitlines()[0] + "\n")
    with pytest.raises(OrditoError, match=r"texts\.jsonl: holds other examples than when the run began"):
        fit(config, resume=True)
    data.write_text(before)
    assert fit(config, resume=True).steps == 4


def test_a_stop_file_is_gone_when_the_run_goes_on(folder, tmp_path):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "STOP").touch()
    assert "STOP" in fit(config).stopped
    result = fit(config, resume=True)
    assert (result.steps, result.stopped) == (6, None)


def test_a_run_that_was_stopped_early_is_not_trained_further(folder, tmp_path):
    data = runs.chats(tmp_path / "chats.jsonl")
    worse = {"eval_data": [str(data)], "eval_every": 1, "patience": 2, "steps": 9, "lr": 5.0, "clip": None}
    config = runs.configured(folder, data, tmp_path / "out", **worse)
    result = fit(config)
    assert result.stopped.startswith("eval_loss has not fallen")
    assert result.exported
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    (tmp_path / "out" / "model.safetensors").unlink()  # as if it had been killed before the export
    assert fit(config, resume=True) == result
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert len(runs.metrics(tmp_path / "out")) == result.steps < 9


def test_a_stop_and_too_many_evaluations_at_once_end_the_run_alike(folder, tmp_path):
    data = runs.chats(tmp_path / "chats.jsonl")
    worse = {"eval_data": [str(data)], "eval_every": 1, "patience": 1, "steps": 9, "lr": 5.0, "clip": None}
    config = runs.configured(folder, data, tmp_path / "out", **worse)

    class Stopper(Quiet):
        def stepped(self, record):
            if record["step"] == whole.steps:
                (tmp_path / "out" / "STOP").touch()

    whole = fit(runs.configured(folder, data, tmp_path / "whole", **worse))
    result = fit(config, listener=Stopper())
    assert (result.steps, result.stopped, result.exported) == (whole.steps, whole.stopped, True)


def test_a_resumed_run_removes_what_a_killed_one_left(folder, tmp_path):
    config = made("whole", folder, tmp_path, tmp_path / "out")
    fit(config)
    left, other = tmp_path / "out" / ".config.json.0123456789abcdef.tmp", tmp_path / "out" / ".mine.tmp"
    left.write_text("{")
    other.write_text("")
    fit(config, resume=True)
    assert not left.exists()
    assert other.exists()


def test_a_full_disk_leaves_the_previous_checkpoint(folder, tmp_path, monkeypatch):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", save_every=2)
    import ordito.train.checkpoints as room

    written = room.write_safetensors

    def full(path, tensors, *rest):
        if "00000004" in str(path) and path.name == OPTIMIZER:
            raise OSError(28, "No space left on device")
        return written(path, tensors, *rest)

    monkeypatch.setattr(room, "write_safetensors", full)
    with pytest.raises(CheckpointError, match=r"No space left.*step 2 is as it was.*--resume"):
        fit(config)
    assert Checkpoints(tmp_path / "out" / CHECKPOINTS, 2).steps() == [2]
    assert not list((tmp_path / "out" / CHECKPOINTS).glob(".unfinished*"))
    monkeypatch.undo()
    fit(config, resume=True)
    fit(runs.configured(folder, tmp_path / "chats.jsonl", tmp_path / "whole", save_every=2))
    assert runs.metrics(tmp_path / "out") == runs.metrics(tmp_path / "whole")


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl", "loss.svg"])
def test_a_full_disk_is_named_wherever_it_fills(name, folder, tmp_path, monkeypatch):
    import builtins

    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", save_every=2)
    config = config.model_copy(update={"samples": ("warp",), "sample_every": 1, "sample_tokens": 2})
    real, opened = open, 0

    def full(path, mode="r", *rest, **more):
        nonlocal opened
        if name in str(path) and mode in ("a", "xb"):
            opened += 1
            if opened > 3 or name == "loss.svg":
                raise OSError(28, "No space left on device")
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(builtins, "open", full)
    if name == "loss.svg":  # which shows what the metrics say, and is no reason to stop
        with pytest.warns(UserWarning, match=r"loss\.svg: cannot be written"):
            assert fit(config).stopped is None
        return
    with pytest.raises(CheckpointError, match=rf"{name}: cannot be written.*step 2 is as it was.*--resume"):
        fit(config)
    monkeypatch.undo()
    fit(config, resume=True)
    for file in ("metrics.jsonl", "samples.jsonl"):
        lines = (tmp_path / "out" / file).read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
