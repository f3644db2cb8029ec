"""A server with a tiny random model."""

from __future__ import annotations

import httpx
import pytest
from serving import running
from tiny_model import tiny_folder

CONTEXT = 1024


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model with room for a conversation with tools."""
    return tiny_folder(tmp_path_factory.mktemp("roomy"), CONTEXT)


@pytest.fixture(scope="session")
def url(folder):
    with running([folder]) as address:
        yield address


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=60) as made:
        yield made
