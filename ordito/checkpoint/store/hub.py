"""Downloads from the Hugging Face hub: the files of a model are chosen and fetched into huggingface_hub's own cache."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ordito.checkpoint.store import cached
from ordito.checkpoint.store.home import locked, need_space
from ordito.checkpoint.store.names import LocalModel, Reference
from ordito.checkpoint.store.progress import Progress, megabytes, polling, transfer
from ordito.checkpoint.store.variants import Choice, choose
from ordito.errors import DownloadError, ModelNotFoundError, OrditoError

_LOGIN = "`hf auth login` (or set HF_TOKEN)"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS}


def offline() -> bool:
    """Whether the user has forbidden huggingface_hub to use the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def pull(ref: Reference, progress: Progress, force: bool) -> tuple[LocalModel, bool]:
    """Download the model into the cache unless it is there; returns it, and whether it was downloaded.

    `force` looks up the revision again and fetches every file.
    """
    assert ref.repo is not None, ref
    if not force and (found := cached.find(ref)):
        return found, False
    with locked(ref.repo, progress):
        if not force and (found := cached.find(ref)):  # whoever held the lock brought it
            return found, False
        try:
            commit = _fetch(ref, progress, force)
        except OrditoError:
            raise
        except Exception as error:  # of several HTTP libraries, by version: none may reach the user as a traceback
            raise explained(error, ref) from error
    at_commit = Reference(name=ref.name, source="hub", repo=ref.repo, quant=ref.quant, revision=commit)
    found = cached.find(at_commit, with_tokenizer=False)
    if found is None:
        raise DownloadError(f"{ref.name} was downloaded and is still incomplete; run `ordito pull --force {ref.name}`")
    return found, True


def _fetch(ref: Reference, progress: Progress, force: bool) -> str:
    from huggingface_hub import HfApi

    repo, cache = str(ref.repo), cached.cache_folder()
    info = HfApi().model_info(repo, revision=ref.revision, files_metadata=True)
    commit = str(info.sha)
    files = {one.rfilename: one.size or 0 for one in info.siblings or []}
    chosen = choose(files, repo, ref.quant)
    if chosen.others and not ref.quant:
        progress.note(_choice_note(repo, chosen, files))
    snapshot = cached.repo_folder(repo) / "snapshots" / commit
    wanted = [name for name in chosen.files if force or not (snapshot / name).exists()]
    sizes = [files[name] for name in wanted]
    _sweep(cached.repo_folder(repo) / "blobs")
    need_space(cache, sum(sizes), ref.label)
    with transfer(progress, ref.label, sum(sizes) or None), _bars_hidden():
        done = 0
        for name, size in zip(wanted, sizes, strict=True):
            with polling(progress, _measure(cached.repo_folder(repo) / "blobs", done, size)):
                _download(repo, name, commit, cache, force)
            done += size
            progress.advance(done)
    if not cached.COMMIT.fullmatch(revision := ref.revision or "main"):
        # The cache records the commit of a branch or tag only on a download by that name; the file is there already.
        _download(repo, min(chosen.files, key=files.__getitem__), revision, cache, force=False)
    return commit


def _download(repo: str, name: str, revision: str, cache: Path, force: bool) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(repo, name, revision=revision, cache_dir=cache, force_download=force)


def _sweep(blobs: Path) -> None:
    """Delete files of downloads killed more than a day ago whose names have a random part: the others can be resumed."""
    for path in blobs.glob("*.????????.incomplete"):
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - 86_400:
                path.unlink()


def _choice_note(repo: str, chosen: Choice, files: dict[str, int]) -> str:
    size = megabytes(sum(files[name] for name in chosen.files))
    return f"{repo}: chose {chosen.tag or chosen.main} ({size}); there are also {', '.join(sorted(chosen.others))}"


def _measure(blobs: Path, before: int, size: int) -> Callable[[], int]:
    """A function that gives the bytes downloaded: `before`, and those of the current file.

    That is the one that was written to since the call; killed downloads may have left others.
    """
    began = time.time() - 1

    def measure() -> int:
        grown = 0
        for path in blobs.glob("*.incomplete"):
            try:
                stat = path.stat()
            except OSError:
                continue
            if stat.st_mtime >= began:
                grown = max(grown, stat.st_size)
        return before + min(size, grown)

    return measure


@contextmanager
def _bars_hidden() -> Iterator[None]:
    """Disable huggingface_hub's progress bars, as ours shows the same."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def explained(error: Exception, ref: Reference) -> OrditoError:
    """The error to raise for an exception of huggingface_hub, with one sentence that says what to do."""
    from huggingface_hub import errors

    repo, again = ref.repo, "then try again"  # names no command: `ordito explain` fetches only headers, `ordito pull` all
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return DownloadError(f"{repo} is gated: accept its terms on its page at the hub, log in with {_LOGIN}, {again}")
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no revision {ref.revision or 'main'!r}; give a branch, a tag or a commit")
    if isinstance(error, errors.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"the hub has no model {repo!r}, or it is private: check the spelling, or log in with {_LOGIN}, {again}"
        )
    if isinstance(error, errors.HFValidationError):
        return ModelNotFoundError(f"{repo!r} is no repository name: {error}; expected org/name")
    if status in {401, 403}:
        return DownloadError(f"the hub refused {repo} (status {status}): log in with {_LOGIN}, {again}")
    if status is not None:
        return DownloadError(f"the hub answered {repo} with status {status}: wait a little, {again}")
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return DownloadError(
            f"{repo} could not be stored in {cached.cache_folder()}: {error.strerror}; make room there or choose another "
            f"folder with HF_HOME, {again}"
        )
    words = " ".join(str(error).split())[:200] or type(error).__name__
    if isinstance(error, errors.LocalEntryNotFoundError):
        words = "no answer"
    return DownloadError(f"{repo} could not be downloaded from the hub ({words}): check the network, {again}")
