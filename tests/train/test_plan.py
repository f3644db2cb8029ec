"""`--plan` predicts what the run then takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import training_runs as runs

from ordito.errors import OrditoError
from ordito.train import planned
from ordito.train.plan import Plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")

RUN = """
import json, sys
from ordito.train import config_from, fit
fit(config_from(json.load(open(sys.argv[1]))))
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0])
"""


def test_the_predicted_peak_is_that_of_the_run(folder, tmp_path):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", save_every=3)
    plan = planned(config)
    assert not (tmp_path / "out").exists()
    (tmp_path / "settings.json").write_text(json.dumps(config.to_dict()))
    command = [sys.executable, "-c", RUN, str(tmp_path / "settings.json")]
    peak = 1024 * int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert plan.peak == pytest.approx(peak, rel=0.1)
    assert (plan.steps, plan.rows) == (6, 4)
    assert plan.trained == plan.parameters > 0
    assert 0 < plan.learned < plan.tokens
    assert list(plan.phases) == ["weights", "forward and backward", "the optimizer", "a later step", "a checkpoint"]


def test_the_longest_step_counts_and_tokens_are_those_of_the_mean_step(folder, tmp_path):
    data = tmp_path / "texts.jsonl"
    texts = ["warp"] * 63 + ["weft and warp " * 400]
    data.write_text("".join(json.dumps({"text": text, "label": text[:4]}) + "\n" for text in texts))
    long = {"length": 4096, "micro_batch": 4, "steps": None, "batch_size": 4}
    plan = planned(runs.configured(folder, data, tmp_path / "out", "classification", **long))
    short = planned(runs.configured(folder, data, tmp_path / "out", "classification", **long | {"length": 16}))
    assert plan.phases["weights"] == pytest.approx(short.phases["weights"], rel=0.05)
    assert plan.peak > short.peak + (16 << 20)
    assert short.tokens < plan.tokens < 4096


def test_merging_an_adapter_is_a_phase(folder, tmp_path):
    config = runs.configured(
        folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out", adapter="lora", lora={"rank": 2, "merge": True}
    )
    assert list(planned(config).phases)[-1] == "the merged model"


def test_a_script_needs_no_main_guard(folder, tmp_path):
    config = runs.configured(folder, runs.chats(tmp_path / "chats.jsonl"), tmp_path / "out")
    (tmp_path / "script.py").write_text(
        f"from ordito.train import config_from, planned\nprint(planned(config_from({config.to_dict()!r})).steps)\n"
    )
    done = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, check=False)
    assert done.stdout == "6\n", done.stderr


def test_errors_are_those_of_the_run(folder, tmp_path):
    config = runs.configured(folder, tmp_path / "none.jsonl", tmp_path / "out")
    with pytest.raises(OrditoError, match=r"none\.jsonl"):
        planned(config)


def test_a_plan_that_does_not_fit_gives_advice():
    numbers = {
        "steps": 1,
        "rows": 1,
        "tokens": 1,
        "learned": 1,
        "trained": 1,
        "parameters": 1,
        "utilisation": 1.0,
        "seconds": 1.0,
    }
    plan = Plan(**numbers, phases={"weights": 5, "the optimizer": 11}, free=10, checkpoint=1, disk=9)
    assert plan.peak == 11
    assert "it does not fit" in plan.text()
    assert "micro_batch" in plan.text()
    assert "it fits" in Plan(**numbers, phases={"weights": 5}, free=10, checkpoint=1, disk=9).text()
