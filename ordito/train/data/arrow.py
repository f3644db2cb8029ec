"""Tables of records: Parquet files, and data sets of Hugging Face. Their packages are imported when they are needed."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordito.errors import MissingDependencyError, OrditoError

if TYPE_CHECKING:
    from ordito.train.task import Record

_BATCH = 256


def _required(module: str, what: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise MissingDependencyError(f"{what} needs the package {package}: pip install 'ordito[train]'") from None


def parquet_records(path: Path, begin: int) -> Iterator[tuple[str, Record]]:
    """The rows of a Parquet file behind the first `begin`; groups of rows before them are not read."""
    pyarrow, parquet = _required("pyarrow", f"reading {path}"), _required("pyarrow.parquet", f"reading {path}")
    number = 0
    with _reading(str(path), pyarrow.ArrowException), parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            behind = number + file.metadata.row_group(group).num_rows
            if behind <= begin:
                number = behind
                continue
            for batch in file.iter_batches(_BATCH, row_groups=[group]):
                for row in batch.to_pylist():
                    number += 1
                    if number > begin:
                        yield f"{path} row {number}", _without_nulls(row)


@dataclass(frozen=True)
class Hub:
    """A data set by its name on the Hub, or the folder of one: `hf:NAME[:CONFIG][#SPLIT]`; the split is train if none is named.

    `streamed`: rows are fetched as they are asked for.
    """

    name: str
    config: str | None
    split: str
    streamed: bool

    @classmethod
    def named(cls, source: str, streamed: bool) -> Hub:
        """The data set that `hf:...` names."""
        name, _, split = source.removeprefix("hf:").partition("#")
        config = None
        if not Path(name).exists() and ":" in name:
            name, _, config = name.rpartition(":")
        return cls(name, config, split or "train", streamed)

    def __str__(self) -> str:
        return f"hf:{self.name}{f':{self.config}' if self.config else ''}#{self.split}"

    def read(self, begin: int) -> Iterator[tuple[str, Record]]:
        """Its rows behind the first `begin`, each with its place. Raises `OrditoError` if it cannot be had."""
        with self._reading() as datasets:
            if self._saved:
                rows = datasets.load_from_disk(self.name)
                if isinstance(rows, datasets.DatasetDict):
                    rows = rows[self.split]
            else:
                rows = datasets.load_dataset(self.name, self.config, split=self.split, streaming=self.streamed)
            for number, row in enumerate(rows.skip(begin), begin + 1):
                yield f"{self} row {number}", _without_nulls(row)

    def identity(self, quick: bool) -> str:
        """Changes when the data do: of a folder its files' contents, of the Hub the revision."""
        if Path(self.name).is_dir():
            from ordito.train.data.files import File

            files = sorted(path for path in Path(self.name).rglob("*") if path.is_file() and not path.name.startswith("."))
            contents = [f"{path.relative_to(self.name).as_posix()} {File(path).identity(quick)}" for path in files]
            return f"hf {self.config} {self.split} {contents}"
        with self._reading() as datasets:
            # The library names its own cache by configuration, version and revision.
            cache = Path(datasets.load_dataset_builder(self.name, self.config).cache_dir)
        return f"{self} {'/'.join(cache.parts[-3:])}"

    @property
    def _saved(self) -> bool:
        """Whether the folder was written by `save_to_disk`."""
        return any((Path(self.name) / name).is_file() for name in ("state.json", "dataset_dict.json"))

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        datasets = _required("datasets", f"reading {self}")
        with _reading(str(self), datasets.exceptions.DatasetsError, KeyError, RuntimeError, TypeError):
            yield datasets


@contextmanager
def _reading(what: str, *kinds: type[Exception]) -> Iterator[None]:
    caught: tuple[type[Exception], ...] = (OSError, ValueError, *kinds)
    try:
        yield
    except caught as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise OrditoError(f"{what}: cannot be read ({reason:.200})") from None


def _without_nulls(value: Any) -> Any:
    """A value without the keys that hold nothing: a column has all keys of all of its rows, and null where a row had none."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
