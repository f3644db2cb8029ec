"""The log of a run continues after the step that the run is resumed from."""

from __future__ import annotations

import json
import warnings

import pytest

from ordito.errors import CheckpointError
from ordito.train.journal import METRICS, SAMPLES, Journal, read_metrics


def steps(folder, name=METRICS):
    return [json.loads(line)["step"] for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]


def test_lines_of_later_steps_and_broken_lines_are_dropped(tmp_path):
    first = Journal(tmp_path)
    for step in (1, 2, 3):
        first.add({"step": step, "loss": 1.0 / step})
        first.add_sample(step, "loom", "warp")
    with open(tmp_path / METRICS, "a", encoding="utf-8") as file:
        file.write('{"step": 4, "lo')
    second = Journal(tmp_path, done=2)
    assert [record["step"] for record in second.records] == steps(tmp_path) == steps(tmp_path, SAMPLES) == [1, 2]
    second.add({"step": 3, "loss": 0.5})
    assert steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0c", "\n"])
def test_samples_with_line_separators_are_kept(separator, tmp_path):
    Journal(tmp_path).add_sample(1, f"warp{separator}weft", f"cloth{separator}")
    Journal(tmp_path, done=1)
    (sample,) = read_metrics(tmp_path / SAMPLES)
    assert (sample["prompt"], sample["text"]) == (f"warp{separator}weft", f"cloth{separator}")


def test_tensorboard_shows_every_step_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for done, upto in ((0, 5), (3, 6)):
        journal = Journal(tmp_path, done, tensorboard=True)
        for step in range(done + 1, upto + 1):
            journal.add({"step": step, "loss": float(done), "note": "no number"})
        journal.close()
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(n, 0.0 if n <= 3 else 3.0) for n in range(1, 7)]


def test_a_full_disk_below_tensorboard_is_named(tmp_path):
    class Full:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

        close = add_scalar

    journal = Journal(tmp_path)
    journal._board = Full()
    with pytest.raises(CheckpointError, match=r"tensorboard: cannot be written \(No space left"):
        journal.add({"step": 1, "loss": 1.0})
    with pytest.warns(UserWarning, match="tensorboard: cannot be written"):
        journal.close()


def test_a_plot_needs_two_steps(tmp_path):
    journal = Journal(tmp_path)
    for step in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            journal.draw()
        assert (tmp_path / "loss.svg").exists() == (step > 2)
        journal.add({"step": step, "loss": 1.0})
    journal.close()
    assert (tmp_path / "loss.svg").exists()
