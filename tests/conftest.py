"""What several tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from tiny_model import tiny_folder

# A gate must say the same of the same code; at a desk, every run tries new examples.
settings.register_profile("gate", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("gate")

CONTEXT = 64


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny random LLaMA with a tokenizer and a ChatML template, as transformers saves it."""
    return tiny_folder(tmp_path_factory.mktemp("tiny"), CONTEXT)
