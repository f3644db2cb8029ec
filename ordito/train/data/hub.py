"""Data sets of the Hugging Face Hub, or folders of them, by the package `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ordito.train.data.arrow import reading, required, without_nulls
from ordito.train.data.files import File

if TYPE_CHECKING:
    from ordito.train.task import Record


@dataclass(frozen=True)
class Hub:
    """A data set by its name on the Hub, or its folder: `hf:NAME[:CONFIG][#SPLIT]`; the default split is train.

    `streamed`: rows are fetched on demand.
    """

    name: str
    config: str | None
    split: str
    streamed: bool

    @classmethod
    def named(cls, source: str, streamed: bool) -> Hub:
        """The data set of the source `hf:...`."""
        name, _, split = source.removeprefix("hf:").partition("#")
        config = None
        if not Path(name).exists() and ":" in name:
            name, _, config = name.rpartition(":")
        return cls(name, config, split or "train", streamed)

    def __str__(self) -> str:
        return f"hf:{self.name}{f':{self.config}' if self.config else ''}#{self.split}"

    def read(self, begin: int) -> Iterator[tuple[str, Record]]:
        """Its rows from index `begin` on, each with its place. Raises `OrditoError` if it cannot be loaded."""
        with self._reading() as datasets:
            if self._saved:
                rows = datasets.load_from_disk(self.name)
                if isinstance(rows, datasets.DatasetDict):
                    rows = rows[self.split]
            else:
                rows = datasets.load_dataset(self.name, self.config, split=self.split, streaming=self.streamed)
            if isinstance(rows, datasets.Dataset) and begin >= len(rows):  # which `skip` refuses
                return
            for number, row in enumerate(rows.skip(begin), begin + 1):
                yield f"{self} row {number}", without_nulls(row)

    def identity(self, quick: bool) -> str:
        """Text that changes with the data: hashes of a folder's files, or the revision on the Hub."""
        if Path(self.name).is_dir():
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
        datasets = required("datasets", f"reading {self}")
        with reading(str(self), datasets.exceptions.DatasetsError, KeyError, RuntimeError, TypeError):
            yield datasets
