"""What several tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from tiny_model import tiny_folder

from ordito.threads import usable_threads

# A gate must say the same of the same code; at a desk, every run tries new examples.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

# Workers share the cores. Threads of PyTorch's beyond them would spin, waiting for one that has no core to run on; the few that
# tests ask for sleep.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_threads() // int(workers))))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

CONTEXT = 64


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny random LLaMA with a tokenizer and a ChatML template, as transformers saves it."""
    return tiny_folder(tmp_path_factory.mktemp("tiny"), CONTEXT)


@pytest.fixture
def team():
    """Two threads of PyTorch's, as many as the runtime's kernels for training divide their work among, however few cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)
