"""What `BACKENDS` says of a runtime without importing it agrees with the runtime itself."""

from __future__ import annotations

import pytest

from ordito.engine.backends import BACKENDS, check_settings
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
