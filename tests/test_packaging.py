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


def test_readme_and_the_failed_build_name_what_debian_lacks():
    """Python's headers too, without which CMake stops; venv is there when a build fails."""
    said = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["scikit-build"]["messages"]["after-failure"]
    needed = set(re.search(r"apt install ([\w+ -]+)", said)[1].split())
    told = set(re.search(r"apt install ([\w+ -]+)", (CHECKOUT / "README.md").read_text())[1].split())
    assert needed == {"g++", "make", "python3-dev"}
    assert told == needed | {"python3-venv"}
