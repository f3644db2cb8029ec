"""Reading small untrusted JSON files: of bounded size, with errors that name the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ordito.errors import CheckpointError

MAX_BYTES = 16 << 20
"""Larger than any configuration: a larger file is something else."""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises `CheckpointError` for anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise CheckpointError(f"{path}: {path.stat().st_size:,} bytes, expected a configuration of at most {MAX_BYTES:,}")
        data = json.loads(path.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, not JSON, an integer of 5000 digits
        raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}, expected an object of keys and values")
    return data
