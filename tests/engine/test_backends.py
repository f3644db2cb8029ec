"""What `BACKENDS` says of a runtime without importing it agrees with the runtime itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ordito.engine import backends
from ordito.engine.backends import BACKENDS, check_settings, default_backend
from ordito.errors import OrditoError
from ordito.native.runtime import ARITHMETIC
from ordito.nn.runtime import DTYPES


def test_the_dtypes_of_each_backend_are_listed():
    assert {name: set(backend.dtypes) for name, backend in BACKENDS.items()} == {
        "native": set(ARITHMETIC),
        "torch": set(DTYPES),
    }


@pytest.mark.parametrize("backend", [None, *BACKENDS])
def test_settings_that_any_model_would_refuse(backend):
    check_settings(backend, "float32", None)
    with pytest.raises(
        OrditoError, match=f"unknown dtype 'float23' of the {backend or 'native'} backend.* did you mean float32"
    ):
        check_settings(backend, "float23", None)


@pytest.mark.parametrize(("missing", "default"), [((), "native"), (("native",), "torch"), (BACKENDS, "native")])
def test_the_default_is_the_first_that_is_installed(monkeypatch, missing, default):
    absent = [BACKENDS[name].needs for name in missing]
    monkeypatch.setattr(backends, "is_installed", lambda module: module not in absent)
    assert default_backend() == default


WITHOUT_TORCH = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("PyTorch is not allowed here")
sys.meta_path.insert(0, Forbidden())
import ordito
from ordito.engine.backends import check_settings
for use in (lambda: check_settings("torch", None, None), lambda: ordito.train.fit):
    try:
        use()
    except ordito.errors.MissingDependencyError as error:
        print(error)
"""


def test_pytorch_that_an_import_hook_forbids_is_missing():
    told = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == [
        "the backend 'torch' needs PyTorch: pip install 'ordito[torch]'",
        "training needs PyTorch: pip install 'ordito[train]'",
    ]
