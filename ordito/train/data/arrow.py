"""Parquet files, and helpers for all tables of records. Packages are imported on first use."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordito.errors import MissingDependencyError, OrditoError

if TYPE_CHECKING:
    from ordito.train.task import Record

_BATCH = 256


def required(module: str, what: str) -> Any:
    """A module that `what` needs. Raises `MissingDependencyError` if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingDependencyError(f"{what} needs the package {package}: pip install 'ordito[train]'") from None


def parquet_records(path: Path, begin: int) -> Iterator[tuple[str, Record]]:
    """The rows of a Parquet file from index `begin` on; row groups before them are not read."""
    pyarrow, parquet = required("pyarrow", f"reading {path}"), required("pyarrow.parquet", f"reading {path}")
    number = 0
    with reading(str(path), pyarrow.ArrowException), parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            end = number + file.metadata.row_group(group).num_rows
            if end <= begin:
                number = end
                continue
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                for row in batch.to_pylist():
                    number += 1
                    if number > begin:
                        yield f"{path} row {number}", without_nulls(row)


@contextmanager
def reading(what: str, *kinds: type[Exception]) -> Iterator[None]:
    """Turn `OSError`, `ValueError` and `kinds` into an `OrditoError` whose message begins with `what`."""
    caught: tuple[type[Exception], ...] = (OSError, ValueError, *kinds)
    try:
        yield
    except caught as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OrditoError(f"{what}: cannot be read ({reason:.200})") from None


def without_nulls(value: Any) -> Any:
    """A value without keys that are None: Arrow gives each row the keys of all rows, and null where a row has none."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
