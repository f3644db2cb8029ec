"""Configurations: typed settings with ranges, saved with the run; errors name the setting."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml

from ordito import train
from ordito.errors import ConfigError, MissingDependencyError, OrditoError
from ordito.train import config_from
from ordito.train.config import Config, described, mapping_from_yaml, read_settings
from ordito.train.task import kinds

LEAST = {"objective": "sft", "model": "smollm2", "data": "a.jsonl", "output": "out"}


def test_sets_override_given_values():
    config = config_from(LEAST | {"lr": 1e-3}, ["lr=5e-4", "lora.rank=4", "adapter=lora", "clip=none", "data=a.jsonl,b.jsonl"])
    assert (config.lr, config.lora.rank, config.adapter, config.clip) == (5e-4, 4, "lora", None)
    assert config.data == ("a.jsonl", "b.jsonl")


def test_settings_of_the_objective_need_no_prefix():
    assert config_from(LEAST, ["sft.learn=last"]).settings.learn == "last"
    assert config_from(LEAST, ["learn=last"]).settings.learn == "last"


def test_values_of_python_and_yaml_may_be_named_as_those_of_the_command_line():
    config = config_from(LEAST | {"learn": "last", "lora.rank": 4, "lora.alpha": 8.0, "moe": {"z": 0.1}}, ["lora.alpha=2"])
    assert (config.settings.learn, config.lora.rank, config.lora.alpha, config.moe.z) == ("last", 4, 2.0, 0.1)


def test_paths_may_be_given_as_path_objects():
    folder = Path("a folder")
    config = config_from({"objective": "sft", "model": folder / "m", "data": folder / "a,b.jsonl", "output": folder})
    assert (config.model, config.data, config.output) == (str(folder / "m"), (str(folder / "a,b.jsonl"),), str(folder))
    several = LEAST | {"data": [folder, "b.txt"], "eval_data": (folder,), "tokenizer": folder}
    assert config_from(several) == config_from(
        LEAST | {"data": f"{folder},b.txt", "eval_data": str(folder), "tokenizer": str(folder)}
    )


def test_every_value_is_written_and_read_back():
    config = config_from(LEAST, ["lora.targets=q,v", "samples=Hello, there", "eval_data=c.jsonl", "max_time=1.5"])
    written = config.to_yaml()
    assert config_from(mapping_from_yaml(written, "run.yaml")) == config
    assert set(yaml.safe_load(written)) == {name for name in type(config).model_fields if name != "settings"} | {"sft"}


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["lr=-1"], r"lr: got -1, input should be greater than or equal to 0"),
        (["lr=nan"], "lr: got nan"),
        (["batch_size=0"], "batch_size: got 0"),
        (["batch_size=2.5"], r"batch_size: got 2\.5"),
        (["optimizer=sgd"], "optimizer: got 'sgd'"),
        (["larning=1"], r"unknown setting 'larning'.*did you mean learn"),
        (["lora.rank.x=1"], r"lora.rank: got"),
        (["output="], "output: got None"),
        (["data=a.jsonl,"], r"data\.1: got ''"),
        (["lora.rnk=1"], r"unknown setting 'lora\.rnk'; did you mean rank"),
        (["sft.larn=all"], r"unknown setting 'sft\.larn'; did you mean learn"),
        (["lr"], "expected key=value"),
    ],
)
def test_errors_name_setting_value_and_expectation(sets, told):
    with pytest.raises(ConfigError, match=told):
        config_from(LEAST | {"learn": "all"} if "learn" in sets else LEAST, sets)


NUMBERS = [
    name for name, field in Config.model_fields.items() if {int, float} & {field.annotation, *get_args(field.annotation)}
]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_a_least_value(name):
    with pytest.raises(ConfigError, match=f"{name}: got -1000000000"):
        config_from(LEAST, [f"{name}=-1000000000"])


def test_missing_and_unknown_settings_are_named(tmp_path):
    with pytest.raises(ConfigError, match="no objective is named"):
        config_from({"model": "m"})
    with pytest.raises(OrditoError, match="unknown objective 'stf'.*did you mean sft"):
        config_from(LEAST | {"objective": "stf"})
    with pytest.raises(ConfigError, match="'model' is missing: --model"):
        config_from({key: value for key, value in LEAST.items() if key != "model"})
    with pytest.raises(ConfigError, match="unknown setting 'bacth_size'.*did you mean batch_size"):
        config_from(LEAST | {"bacth_size": 1})
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "odd.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="is not YAML at line"):
        read_settings(tmp_path / "odd.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="got list, expected settings"):
        read_settings(tmp_path / "list.yaml")


def test_every_setting_is_described():
    """Except those whose names are self-explanatory."""
    from ordito.train.config import Config

    plain = {"optimizer", "beta1", "beta2", "eps", "sample_tokens", "objective"}
    rows = [*described(Config), *(row for kind in kinds().values() for row in described(kind.settings, f"{kind.name}."))]
    assert [name for name, _, said in rows if not said and name not in plain] == []


@pytest.mark.parametrize("missing", ["torch", "yaml"])
def test_a_missing_dependency_is_named(monkeypatch, missing):
    def absent(name):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(MissingDependencyError, match="pip install 'ordito\\[train\\]'"):
        _ = train.fit
