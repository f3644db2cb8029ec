"""Ordito's folder: where it is, its locks, free space, and the atomic installation of a model's folder in it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ordito.checkpoint.store.progress import Progress, megabytes
from ordito.errors import DownloadError

CHUNK = 1 << 20
MARGIN = 64 << 20  # a disk filled to the last byte breaks other programs


def home() -> Path:
    """`$ORDITO_HOME`, else `ordito` in the user's cache folder."""
    if chosen := os.environ.get("ORDITO_HOME"):
        return Path(chosen).expanduser()
    # The XDG rules: a relative or empty path counts as unset.
    caches = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(caches) if os.path.isabs(caches) else Path.home() / ".cache") / "ordito"


def models_folder() -> Path:
    """The folder of complete models, each of which has a folder of its own."""
    return home() / "models"


def downloads_folder() -> Path:
    """The folder of locks and unfinished downloads. Everything in it may be deleted while no process downloads."""
    return home() / "downloads"


@contextmanager
def locked(what: str, progress: Progress) -> Iterator[None]:
    """Hold the download lock of one model; wait, with a note, while another process holds it. A lock ends with its process."""
    from filelock import FileLock, Timeout

    name = what.replace("/", "--")
    lock = FileLock(_made(downloads_folder()) / f"{name}.lock")
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"waiting for another process that is working on {what}")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        raise unwritable(downloads_folder(), error) from error
    try:
        yield
    finally:
        lock.release()


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    return folder


def unwritable(folder: Path, error: OSError) -> DownloadError:
    """The error for an operating system's error below `folder`."""
    reason = error.strerror or str(error)
    return DownloadError(f"cannot write below {folder}: {reason}; make it writable or set ORDITO_HOME to another folder")


def need_space(folder: Path, need: int, what: str) -> None:
    """Raise `DownloadError` if the disk of `folder` has less than `need` bytes (and a margin) free."""
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < need + MARGIN:
        raise DownloadError(
            f"not enough disk space for {what}: {megabytes(need + MARGIN)} needed below {folder}, "
            f"{megabytes(free)} free; free some, or choose another disk with ORDITO_HOME (HF_HOME for hub models)"
        )


def sha256_of(path: Path) -> str:
    """The checksum of a file, read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut, where the system can (Windows cannot open folders)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def install_folder(complete: Path, target: Path, aside: Path) -> None:
    """Move the folder `complete` to `target` by renaming; an older one is first moved to `aside`, and deleted afterwards."""
    _made(target.parent)
    if target.exists():
        os.replace(target, aside)
    os.replace(complete, target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; files that disappear meanwhile count as 0."""
    return sum(sizes_below(folder).values())


def sizes_below(folder: Path) -> dict[str, int]:
    """Relative POSIX name -> bytes of every readable file below (links followed, broken ones left out)."""
    sizes = {}
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name)
            try:
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
            except OSError:
                continue
    return sizes
