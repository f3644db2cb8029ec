"""`ordito draw`: what it writes, and its errors."""

from __future__ import annotations

import json
from functools import partial

import pytest

from ordito import catalogue
from ordito.checkpoint.outline import outline
from ordito.families import spec_from_config


@pytest.fixture
def cli(cli):
    return partial(cli, "draw")


def test_a_published_model_is_drawn_by_name(cli, tmp_path):
    done = cli("gemma-3-27b", "-o", tmp_path / "x.svg", "--theme", "dark")
    assert (done.out, done.err) == ("", "")
    assert "Gemma 3 27B" in (tmp_path / "x.svg").read_text("utf-8")


def test_without_a_file_the_text_is_printed(cli):
    assert cli("gemma-3-27b").out.startswith("Gemma 3 27B\n27,009,346,304 parameters, 62 layers")


def test_two_models_are_compared(cli, tmp_path):
    cli("llama-2-7b", "llama-3-8b", "-o", tmp_path / "x.svg")
    assert "≠ differs from the other" in (tmp_path / "x.svg").read_text("utf-8")


def test_png_in_the_size_asked_for(cli, tmp_path):
    cli("gpt-2-small", "-o", tmp_path / "x.png", "--scale", "1")
    cli("gpt-2-small", "-o", tmp_path / "y.png", "--scale", "2")
    one, two = ((tmp_path / name).read_bytes()[16:24] for name in ("x.png", "y.png"))
    assert abs(2 * int.from_bytes(one[:4]) - int.from_bytes(two[:4])) <= 1


def test_settings_of_a_picture_need_a_file(cli):
    for setting in (("--theme", "dark"), ("--scale", "1")):
        assert "give -o FILE" in cli("gpt-2-small", *setting, status=1).err


def test_configurations_in_one_folder_have_names_of_their_own(tmp_path):
    for name in ("before", "after"):
        (tmp_path / f"{name}.json").write_text(json.dumps(catalogue.find("GPT-2 small").config))
        assert outline(tmp_path / f"{name}.json").name == name


@pytest.mark.parametrize("part", ["config.json", "."])
def test_a_path_is_drawn_under_the_name_of_its_folder(tmp_path, part):
    config = dict(catalogue.find("GPT-2 small").config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(config))
    found = outline(tmp_path / "mine" / part)
    assert (found.spec, found.name) == (spec_from_config(config), "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("llama-3-8c",), "error: the catalogue has no model 'llama-3-8c'"),
        (("gpt-4",), "error: GPT-4 is closed: its architecture is not published"),
        (("gpt-1", "gpt-1", "gpt-1"), "error: draw: got 3 architectures, expected one or two"),
        (("gpt-1", "-o", "x.pdf"), "error: x.pdf: got the ending '.pdf', expected .svg or .png"),
        (("gpt-1", "-o", "no/such/x.svg"), "error: no/such/x.svg: cannot be written (No such file or directory)"),
        (("gpt-1", "-o", "x.svg", "--theme", "sepia"), "error: unknown theme 'sepia', expected one of light, dark"),
    ],
)
def test_mistakes_are_one_sentence(cli, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments, status=1)
    assert done.out == ""
    assert done.err.startswith(message)
    assert done.err.count("\n") == 1
    assert not list(tmp_path.iterdir())
