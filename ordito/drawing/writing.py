"""Atomic writes of files."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ordito.errors import OrditoError


def write(path: Path, data: bytes) -> None:
    """Write a file by renaming a complete temporary one. Raises `OrditoError` if it cannot be written."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise OrditoError(f"{path}: cannot be written ({error.strerror or error})") from None
