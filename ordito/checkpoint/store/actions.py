"""What can be done with a model name, for all three sources: local paths, Python packages and the Hugging Face hub."""

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
    """Find a model on this machine, or download it unless `offline`. The network is used only if it is not there.

    Raises `ModelNotFoundError` or `DownloadError`.
    """
    ref = parse(name)
    if found := _find(ref, with_tokenizer=not (offline or _stays_offline(ref))):
        return found
    if offline or _stays_offline(ref):
        why = "" if offline else " and HF_HUB_OFFLINE is set"
        raise ModelNotFoundError(f"{ref.name} is not on this machine{why}; download it with `ordito pull {ref.name}`")
    try:
        return pull(name, progress=progress)
    except OrditoError:
        # If the download fails, a model that lacks only its tokenizer is better than nothing.
        if (found := _find(ref, with_tokenizer=False)) and progress:
            progress.note(f"{ref.name} has no tokenizer on this machine, and it could not be downloaded")
        if found:
            return found
        raise


def pull(name: str, *, progress: Progress | None = None, force: bool = False) -> LocalModel:
    """Download a model unless it is there; `force` downloads and checks it again (the newest commit of a hub branch).

    Raises `ModelNotFoundError` or `DownloadError`.
    """
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
    """Every complete model that `locate` finds without the network: shipped ones first, then those in the hub's cache."""
    return list(_installed())


def _installed() -> Iterator[LocalModel]:
    for model in MODELS.values():
        if found := packages.find(model):
            yield found
    yield from cached.installed()


def remove(name: str) -> int:
    """Delete a downloaded model and return the number of bytes freed.

    Raises `ModelNotFoundError` if it is not there, or for a path: the user's own files are not deleted.
    """
    ref = parse(name)
    if ref.path is not None:
        raise ModelNotFoundError(f"{ref.path} was not pulled by Ordito and is not removed; delete the file yourself")
    if ref.source == "package":
        if packages.present(MODELS[ref.name]):
            return packages.remove(MODELS[ref.name], Silent())
    elif cached.find(ref, with_tokenizer=False):
        with locked(str(ref.repo), Silent()):
            return cached.remove(ref)
    raise _absent(ref)


def verify(name: str) -> LocalModel:
    """Compare the checksums of a downloaded model's files. Raises `DownloadError`, which names a file that differs."""
    ref = parse(name)
    if ref.path is not None:
        raise ModelNotFoundError(f"{ref.path} was not pulled by Ordito, so there is no checksum to compare it with")
    found = _find(ref, with_tokenizer=False)
    if found is None:
        raise _absent(ref)
    wrong = packages.damaged(MODELS[ref.name]) if ref.source == "package" else cached.damaged(found)
    if wrong:
        more = f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        raise DownloadError(f"{ref.name} is damaged: {wrong[0]}{more}; download it again with `ordito pull --force {ref.name}`")
    return found


def _find(ref: Reference, with_tokenizer: bool) -> LocalModel | None:
    if ref.path is not None:
        return inspect(ref.path)
    return packages.find(MODELS[ref.name]) if ref.source == "package" else cached.find(ref, with_tokenizer)


def _stays_offline(ref: Reference) -> bool:
    return ref.source == "hub" and hub.offline()


def _absent(ref: Reference) -> ModelNotFoundError:
    names = [model.name for model in installed()]
    return ModelNotFoundError(
        f"{ref.name} is not on this machine{did_you_mean(ref.name, names)}; installed: {', '.join(names) or 'nothing'}"
    )
