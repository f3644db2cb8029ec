"""A tiny model with each backend, and an engine for it."""

from __future__ import annotations

import pytest

import ordito
from ordito.engine.engine import Engine


@pytest.fixture(scope="module", params=["native", "torch"])
def model(request, folder):
    return ordito.load(folder, backend=request.param)


@pytest.fixture
def engine(model):
    return Engine(model)
