"""The command line in the process of the tests."""

from __future__ import annotations

import io
import sys
import warnings
from types import SimpleNamespace

import pytest

from ordito.cli import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs `ordito ...` in this process, which has PyTorch already."""

    def run(*arguments, stdin="", status=0):
        data = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "argv", ["ordito", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # main sets it: put it back afterwards
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        assert end.value.code == status, err
        return SimpleNamespace(out=out, err=err)

    return run
