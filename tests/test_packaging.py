"""What installing needs and gives: told before it fails, and typed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


def test_type_checkers_read_the_types():
    assert (resources.files("ordito") / "py.typed").is_file()
