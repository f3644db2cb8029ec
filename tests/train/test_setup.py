"""What a run sets before its first step."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import training_runs as runs

import ordito.train.setup as room
from ordito.train import fit
from ordito.train.listener import Quiet


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("own", "granted", "asked", "expected"), [(4, 1, None, 1), (4, 8, None, 4), (4, 1, 2, 2)])
def test_threads_are_pytorchs_within_the_quota_unless_they_are_set(
    own, granted, asked, expected, threads, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(room, "usable_threads", lambda: granted)
    torch.set_num_threads(own)
    room.set_up(runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", threads=asked), Quiet())
    assert torch.get_num_threads() == expected


@pytest.fixture
def short(folder, tmp_path):
    """A tiny GPT-2 of 32 learned positions."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=277, n_positions=32, n_embd=32, n_layer=1, n_head=4, bos_token_id=0, eos_token_id=1
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "short")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / name, tmp_path / "short" / name)
    return tmp_path / "short"


@pytest.mark.parametrize("stream", [False, True])
def test_texts_are_split_at_the_last_learned_position_and_rows_are_longer(stream, short, tmp_path):
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": "weft " * 60}) + "\n")
    config = runs.configured(short, data, tmp_path / "out", "pretrain", length=128, steps=1, stream=stream)
    trainer, _ = room.set_up(config, Quiet())
    (batch,) = trainer.batches(0)[:1]
    assert max(place.end - place.begin for example in batch.places for place in example) == 32
    assert batch.ids_BT.shape[1] > 32
    assert fit(config).steps == 1


def test_a_sample_ends_at_the_last_position_and_one_without_room_ends_no_run(short, tmp_path):
    many = {"samples": ["warp", "warp " * 40], "sample_every": 1, "sample_tokens": 100, "steps": 1, "length": 32}
    with pytest.warns(UserWarning, match="no sample of 'warp warp.*no position for an answer"):
        fit(runs.configured(short, runs.texts(tmp_path / "t.jsonl"), tmp_path / "out", "pretrain", **many))
    (sample,) = (tmp_path / "out" / "samples.jsonl").read_text().splitlines()
    assert json.loads(sample)["prompt"] == "warp"
