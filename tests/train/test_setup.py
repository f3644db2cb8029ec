"""What a run sets before its first step."""

from __future__ import annotations

import pytest
import torch
import training_runs as runs

import ordito.train.setup as room
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
