"""Examples on disk, memory-mapped: a folder of safetensors files, each written atomically, and a header, written last.

    shards.json          {"format", "fingerprint", "shards", "counts"}; written last
    00000.safetensors    ids (tokens,) i32, learn (tokens,) u8, beside.NAME (tokens, ...),
                         text_ends (texts,) i64 in tokens, example_ends (examples,) i64 in texts, labels (examples,) f64

A shard's metadata are the fingerprint of the whole data set, a note of its maker, and the SHA-256 of its contents.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ordito.checkpoint.json_file import read_object
from ordito.checkpoint.safetensors import read_safetensors, write_safetensors
from ordito.errors import CheckpointError, OrditoError
from ordito.files import write_atomically
from ordito.train.examples import Example, Text

FORMAT = "ordito-shards-1"
HEADER = "shards.json"
MOST_EXAMPLES = 1 << 17
MOST_TOKENS = 1 << 25
"""A shard is full when it has that many examples or tokens."""

_EXTRA = "beside."


def shard_path(folder: Path, number: int) -> Path:
    """The path of a shard."""
    return folder / f"{number:05d}.safetensors"


class ShardWriter:
    """Writes examples to the shards of a folder that has `begin` shards already.

    `add` examples, `flush` when `full`, and `finish` with the header, which marks the folder as complete. All examples must
    have the same `extra` arrays.
    """

    def __init__(self, folder: Path, fingerprint: str, begin: int = 0, most_examples: int = MOST_EXAMPLES) -> None:
        self.folder, self.fingerprint, self.number, self.most_examples = Path(folder), fingerprint, begin, most_examples
        self._held: list[Example] = []
        self._tokens = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OrditoError(f"{folder}: cannot be made ({error.strerror})") from None

    def add(self, example: Example) -> None:
        """Hold an example until the next `flush`."""
        self._held.append(example)
        self._tokens += sum(map(len, example.texts))

    @property
    def full(self) -> bool:
        """Whether a shard's worth of examples is held."""
        return len(self._held) >= self.most_examples or self._tokens >= MOST_TOKENS

    def flush(self, note: Mapping[str, Any] | None = None) -> bool:
        """Write the held examples as a shard, with a note (JSON values) for resuming after it; False if none are held."""
        if not self._held:
            return False
        tensors = _tensors(self._held)
        metadata = {"format": FORMAT, "fingerprint": self.fingerprint, "note": json.dumps(note or {})}
        path = shard_path(self.folder, self.number)
        write_safetensors(path, tensors, metadata | {"sha256": _digest(metadata, tensors)})
        self._held, self._tokens, self.number = [], 0, self.number + 1
        return True

    def finish(self, counts: Mapping[str, int] | None = None) -> None:
        """Write the held examples, and the header."""
        self.flush()
        header = {"format": FORMAT, "fingerprint": self.fingerprint, "shards": self.number, "counts": dict(counts or {})}
        write_atomically(self.folder / HEADER, [json.dumps(header, indent=2).encode() + b"\n"])


class Shard:
    """One shard: `len()`, `[i]` (an example, whose arrays are views of the file), and `lengths`, the tokens of each example.

    Raises `OrditoError` if the checksum or the fingerprint is wrong.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        try:
            file = read_safetensors(path)
            metadata = {name: file.metadata[name] for name in ("format", "fingerprint", "note")}
            arrays = {name: tensor.to_numpy() for name, tensor in file.tensors.items()}
            sound = _digest(metadata, arrays) == file.metadata["sha256"]
        except (CheckpointError, KeyError):
            sound = False
        if not sound:
            raise OrditoError(f"{path}: is not what was written; delete the folder {path.parent}, and the data are read again")
        if metadata["fingerprint"] != fingerprint or metadata["format"] != FORMAT:
            raise OrditoError(f"{path}: belongs to other data; delete the folder {path.parent}, and the data are read again")
        self.note: dict[str, Any] = json.loads(metadata["note"])
        self._ids, self._learn, self._labels = arrays["ids"], arrays["learn"], arrays["labels"]
        self._text_ends, self._example_ends = arrays["text_ends"], arrays["example_ends"]
        self._extra = {name.removeprefix(_EXTRA): array for name, array in arrays.items() if name.startswith(_EXTRA)}
        self.lengths: NDArray[np.int64] = np.diff(self._text_ends[self._example_ends - 1], prepend=0)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, number: int) -> Example:
        begin = int(self._example_ends[number - 1]) if number else 0
        texts = tuple(self._text(t) for t in range(begin, int(self._example_ends[number])))
        return Example(texts, float(self._labels[number]))

    def _text(self, number: int) -> Text:
        part = slice(int(self._text_ends[number - 1]) if number else 0, int(self._text_ends[number]))
        extra = {name: array[part] for name, array in self._extra.items()}
        return Text(self._ids[part], self._learn[part] != 0, extra)


@dataclass(frozen=True)
class Header:
    """The contents of `shards.json`: the number of shards, and the counts of their maker."""

    fingerprint: str
    shards: int
    counts: dict[str, int]


def read_header(folder: Path) -> Header | None:
    """The header of a folder of shards; None before all shards are written. Raises `OrditoError` if it is damaged."""
    path = folder / HEADER
    if not path.is_file():
        return None
    try:
        found = read_object(path)
        header = Header(str(found["fingerprint"]), int(found["shards"]), dict(found["counts"]))
    except (CheckpointError, KeyError, TypeError, ValueError):
        raise OrditoError(f"{path}: is damaged; delete the folder {folder}, and the data are read again") from None
    return header


class Shards:
    """A whole folder of shards as one list of examples: `len()`, `[i]`, `lengths`, and the `counts` of the header.

    Raises `OrditoError` for a folder that is not complete, and names a file that is missing or changed.
    """

    def __init__(self, folder: Path) -> None:
        header = read_header(Path(folder))
        if header is None:
            raise OrditoError(f"{folder}: has no {HEADER}: its shards are not complete")
        self.fingerprint, self.counts = header.fingerprint, header.counts
        self._shards = [Shard(shard_path(Path(folder), number), header.fingerprint) for number in range(header.shards)]
        self._ends = np.cumsum([len(shard) for shard in self._shards], dtype=np.int64)
        self.lengths = np.concatenate([shard.lengths for shard in self._shards] or [np.zeros(0, np.int64)])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, number: int) -> Example:
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return self._shards[shard][number - int(self._ends[shard] - len(self._shards[shard]))]


def _tensors(examples: Sequence[Example]) -> dict[str, NDArray[Any]]:
    texts = [text for example in examples for text in example.texts]
    names = set(texts[0].extra)
    assert all(set(text.extra) == names for text in texts), f"some texts have other extra arrays than {sorted(names)}"
    tensors: dict[str, NDArray[Any]] = {
        "ids": np.concatenate([text.ids for text in texts]).astype(np.int32, copy=False),
        "learn": np.concatenate([text.learn for text in texts]).astype(np.uint8),
        "text_ends": np.cumsum([len(text) for text in texts], dtype=np.int64),
        "example_ends": np.cumsum([len(example.texts) for example in examples], dtype=np.int64),
        "labels": np.array([example.label for example in examples], dtype=np.float64),
    }
    return tensors | {_EXTRA + name: np.concatenate([text.extra[name] for text in texts]) for name in sorted(names)}


def _digest(metadata: Mapping[str, str], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of a shard's metadata and arrays, independent of their order in the file."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
