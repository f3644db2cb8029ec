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


def test_wheels_of_macos_have_the_kernels_of_their_own_architecture():
    """cibuildwheel builds both on one machine, whose own architecture is CMAKE_SYSTEM_PROCESSOR."""
    built = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["macos"]["archs"]
    assert built == ["x86_64", "arm64"]
    cmake = (CHECKOUT / "cpp" / "CMakeLists.txt").read_text()
    assert re.search(r"set\(processor \$\{CMAKE_OSX_ARCHITECTURES\}\)", cmake)
    assert re.findall(r"if\((\w+) MATCHES", cmake) == ["processor", "processor"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_an_old_python_is_refused_before_an_environment_is_made(tmp_path):
    """It would stay there, whichever Python is chosen next."""
    shutil.copy(CHECKOUT / "Makefile", tmp_path)
    old = tmp_path / "old"
    old.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys; sys.version_info = (3, 9, 6); exec(sys.argv[1])' \"$2\"\n"
    )
    old.chmod(0o755)
    made = subprocess.run(["make", "chat", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert made.returncode != 0
    assert f"Ordito needs Python 3.11 or newer, got 3.9 from {old}: make chat PYTHON=python3.12, say\n" in made.stderr
    assert not (tmp_path / ".venv").exists()
