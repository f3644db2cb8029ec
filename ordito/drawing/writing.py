"""Files that are complete or as they were before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ordito.errors import OrditoError


def write(path: Path, data: bytes) -> None:
    """Write a file by way of one beside it that then takes its name. Raises `OrditoError` where that is not possible."""
    beside: str | None = None
    try:
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as error:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)
        raise OrditoError(f"{path}: cannot be written: {error.strerror or error}") from None


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
