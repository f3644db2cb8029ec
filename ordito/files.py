"""Atomic writing of files."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ordito.errors import CheckpointError


def write_atomically(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write a file that is complete or absent: a temporary one beside it, forced to the disk, then moved into place.

    Raises `CheckpointError` if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        try:
            with open(temporary, "xb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from error
    # The new name itself survives a power cut only when the folder is on the disk too; not every system can do that.
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> None:
    """Delete the temporary files in a folder that killed processes left; no other process may be writing there."""
    for left in folder.glob(f".*.{'[0-9a-f]' * 16}.tmp"):
        with suppress(OSError):
            left.unlink()
